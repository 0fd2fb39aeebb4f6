"""Calls in text that no grammar held: found, mended and checked. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.text.dialects import Dialect
from diptych.text.schema import JsonSchema
from diptych.text.toolparse_repair import repaired_json

_ARGUMENTS = ("arguments", "parameters", "args", "input")
_BLOCKS = re.compile(r"<tool_call>|</tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_call\|>|"
                     "<｜tool▁calls?▁begin｜>|<｜tool▁calls?▁end｜>")
_PREFIXES = ("functions.", "function.", "tools.")


@dataclass(frozen=True)
class Call:
    """`arguments` is JSON text of an object that its tool's schema allows."""

    name: str
    arguments: str


def calls_in(text: str, dialect: Dialect, schemas: Mapping[str, JsonSchema]) -> list[Call] | None:
    """The calls that `text` is, with its marks; None where a part of it is no valid call."""
    found: list[Call] = []
    for block in _BLOCKS.split(text):
        if not block.strip():
            continue
        made = _of_header(block, dialect) or _of_json(block)
        if not made:
            return None
        for name, arguments in made:
            call = _checked(name, arguments, schemas)
            if call is None:
                return None
            found.append(call)
    return found or None


def _of_header(block: str, dialect: Dialect) -> list[tuple[Any, Any]] | None:
    """`name[ARGS]{…}` and its like; JSON all around is read by `_of_json`."""
    found = dialect.header.match(block.strip())
    if found is None or block.lstrip().startswith(("{", "[")):
        return None
    rest = block.strip()[found.end():].removesuffix("```")
    return [(found["name"], _value(rest))]


def _of_json(block: str) -> list[tuple[Any, Any]] | None:
    values = _value(block)
    if values is None and ";" in block:
        values = [_value(part) for part in block.split(";") if part.strip()]
    made = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if not isinstance(value, dict):
            return None
        name = value.get("name", value.get("function"))
        key = next((key for key in _ARGUMENTS if key in value), None)
        made.append((name, {} if key is None else value[key]))
    return made


def _value(text: str) -> Any:
    try:
        return repaired_json(text)
    except ValueError:
        return None


def _checked(name: Any, arguments: Any, schemas: Mapping[str, JsonSchema]) -> Call | None:
    known = _known(name, schemas)
    if isinstance(arguments, str):
        arguments = _value(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if known is None or not isinstance(arguments, dict):
        return None
    schema = schemas[known]
    if schema.fault(arguments) is not None:
        arguments = _typed(arguments, schema)
        if schema.fault(arguments) is not None:
            return None
    try:
        return Call(known, json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return None


def _known(name: Any, schemas: Mapping[str, JsonSchema]) -> str | None:
    if not isinstance(name, str):
        return None
    for prefix in ("", *_PREFIXES):
        if name.startswith(prefix) and name[len(prefix):] in schemas:
            return name[len(prefix):]
    same = [known for known in schemas if known.casefold() == name.strip().casefold()]
    return same[0] if len(same) == 1 else None


def _typed(arguments: dict[str, Any], schema: JsonSchema) -> dict[str, Any]:
    """Values in quotes as what their schema asks for: "5" for 5, 5 for "5"."""
    held = schema.held if isinstance(schema.held, dict) else {}
    made = dict(arguments)
    for name, wanted in held.get("properties", {}).items():
        kind, value = wanted.get("type") if isinstance(wanted, dict) else None, made.get(name)
        if kind == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
            made[name] = json.dumps(value)
        elif kind in ("integer", "number", "boolean", "array", "object") and isinstance(value, str):
            told = _value(value)
            made[name] = value if told is None else told
        elif kind == "integer" and isinstance(value, float) and value.is_integer():
            made[name] = int(value)
    return made
