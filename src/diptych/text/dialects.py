"""How model families write calls of tools: what goes into the grammar, and how the text is read back."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diptych.core.cards import Card
from diptych.core.grammars import control

MAX_CALLS = 16
"""Calls in one answer that is held to a grammar."""
_LETTERS = string.ascii_letters + string.digits
_NAME = r"(?P<name>[a-zA-Z0-9_.-]{1,128})"


@dataclass(frozen=True)
class Dialect:
    """Grammar, all in Lark: `begin` of all calls, `mark` before each one, `before` the name, `between` name and
    arguments, `after` them, `join` calls, `end` of all.

    Text: calls begin with one of `openers` (the first is what `begin` and `mark` write) and go on to `closer` (None: to
    the end of the answer). `header` is what stands between the mark and the arguments. `bare`: calls may be JSON at
    the very beginning of an answer, without a mark. `short_ids`: ids are nine letters or digits.
    """

    name: str
    header: re.Pattern[str]
    openers: tuple[str, ...]
    begin: str = ""
    mark: str = ""
    before: str = '"{{\\"name\\": \\"{name}\\", "'
    between: str = '"\\"arguments\\": "'
    after: str = '"}"'
    join: str = '", "'
    end: str = ""
    closer: str | None = None
    bare: bool = False
    short_ids: bool = False

    @property
    def by_control_token(self) -> bool:
        """Whether a control token begins the calls, which no text can have."""
        return "<[" in self.begin + self.mark

    def rules(self, tools: Sequence[tuple[str, str]], parallel: bool) -> str:
        """Rules: `calls`, and `body`, which is that without what opens them.

        Args:
            tools: name and rule (`%json …`) of the arguments of each.
            parallel: whether there may be more than one call.
        """
        more = f"({self.join} {self.mark} call){{0,{MAX_CALLS - 1}}}" if parallel else ""
        lines = [f"calls: {self.begin} {self.mark} body", f"body: call {more} {self.end}",
                 "call: " + " | ".join(f"call_{index}" for index in range(len(tools)))]
        for index, (name, arguments) in enumerate(tools):
            lines += [f"call_{index}: {self.before.format(name=name)} {self.between} arguments_{index} {self.after}",
                      f"arguments_{index}: {arguments}"]
        return "\n".join(lines)

    def new_id(self) -> str:
        """An id for a call, in the form that the family's prompts take."""
        made = "".join(secrets.choice(_LETTERS) for _ in range(9 if self.short_ids else 24))
        return made if self.short_ids else f"call_{made}"


_JSON_HEADER = re.compile(
    rf'\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"{_NAME}"\s*,\s*"(?:arguments|parameters)"\s*:\s*')
HERMES = Dialect("hermes", _JSON_HEADER, ("<tool_call>",), mark='"<tool_call>"',
                 before='"\\n{{\\"name\\": \\"{name}\\", "', after='"}\\n</tool_call>"', join='"\\n"',
                 closer="</tool_call>")
MISTRAL_LIST = Dialect("mistral", _JSON_HEADER, ("[TOOL_CALLS]",), begin=f'{control("[TOOL_CALLS]")} "["', end='"]"',
                       short_ids=True)
MISTRAL_ARGS = Dialect(
    "mistral", re.compile(rf"{_NAME}\s*(?:\[CALL_ID\][a-zA-Z0-9]*)?\[ARGS\]\s*"), ("[TOOL_CALLS]",),
    mark=control("[TOOL_CALLS]"), before='"{name}"', between=control("[ARGS]"), after="", join="", short_ids=True)
LLAMA3 = Dialect("llama3", _JSON_HEADER, ("<|python_tag|>",), between='"\\"parameters\\": "', join='"; "', bare=True)
GRANITE = Dialect("granite", _JSON_HEADER, ("<|tool_call|>",), begin=f'{control("<|tool_call|>")} "["', end='"]"')
DEEPSEEK = Dialect(
    "deepseek", re.compile(rf"function(?:<｜tool▁sep｜>)?{_NAME}\s*```json\s*"), ("<｜tool▁calls▁begin｜>",),
    begin=control("<｜tool▁calls▁begin｜>"), mark=control("<｜tool▁call▁begin｜>"),
    before=f'"function" {control("<｜tool▁sep｜>")} "{{name}}"', between='"\\n```json\\n"',
    after=f'"\\n```" {control("<｜tool▁call▁end｜>")}', join='"\\n"', end=control("<｜tool▁calls▁end｜>"),
    closer="<｜tool▁calls▁end｜>")
GENERIC = replace(HERMES, name="generic", openers=("<tool_call>", "<|python_tag|>", "[TOOL_CALLS]"), bare=True)
"""For models whose template knows no tools, or writes them in a way that is not known here: they are told how."""


def dialect_of(card: Card) -> Dialect:
    """How this model writes calls."""
    if card.dialect == "mistral":
        return MISTRAL_ARGS if card.tokenizer in ("mistral-v11", "mistral-v13") else MISTRAL_LIST
    known = {"hermes": HERMES, "llama3": LLAMA3, "granite": GRANITE, "deepseek": DEEPSEEK}
    return known.get(card.dialect or "", GENERIC) if card.tools else GENERIC


def told_by_template(card: Card) -> bool:
    """Whether the model's own template tells it the tools, in a form that is read back here."""
    return card.tools and card.dialect != "functionary"
