"""JSON as answers have it."""

from __future__ import annotations

import json
import sys
from typing import Any

from diptych.text.schema import JsonSchema


def parse_json(text: str) -> Any:
    """A JSON value; numbers over what a computer's floats hold (1e999 is JSON) become the largest of them. Raises
    ValueError also for what only Python takes: NaN, halves of surrogate pairs."""
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=_float, parse_int=_int)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    return value


def _float(digits: str) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, float(digits)))


def _int(digits: str) -> int:
    return int(digits) if len(digits) <= 300 else int(digits[:300])


def json_fault(text: str, schema: JsonSchema) -> str | None:
    """What is wrong with a text that is to be JSON of this schema."""
    try:
        value = parse_json(text)
    except ValueError as error:
        return f"it is no JSON ({error})"
    return schema.fault(value)
