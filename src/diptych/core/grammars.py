"""Control tokens in grammars. The gateway knows their names, only the engine their ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

NAMED = "// control tokens by name\n"
"""First line of a grammar in which `<[NAME]>` stands for the control token NAME."""
CONTROLS = ("[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
"""The names that can stand so."""
_NAME = re.compile(r"<\[(" + "|".join(map(re.escape, CONTROLS)) + r")\]>")


def control(name: str) -> str:
    """One of `CONTROLS` in a grammar that begins with `NAMED`."""
    return f"<[{name}]>"


def with_ids(grammar: str, ids: Mapping[str, int]) -> str:
    """`grammar` with the ids of its control tokens; those that the vocabulary does not have become plain text."""
    if not grammar.startswith(NAMED):
        return grammar
    return _NAME.sub(
        lambda found: f"<[{ids[found[1]]}]>" if found[1] in ids else json.dumps(found[1], ensure_ascii=False), grammar)
