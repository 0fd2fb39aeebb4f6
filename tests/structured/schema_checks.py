"""What becomes of one schema of a collection; `jsonschema` is the judge that the product does not use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from referencing import Registry
from schema_walks import walk

from diptych.core.errors import InvalidRequest
from diptych.text.formats_json import json_fault
from diptych.text.grammar import allows
from diptych.text.schema import JsonSchema, compile_schema

_JUDGES = {"draft-04": jsonschema.Draft4Validator, "draft-06": jsonschema.Draft6Validator,
           "draft-07": jsonschema.Draft7Validator, "2019-09": jsonschema.Draft201909Validator}
DRAFTS = {"draft4": "http://json-schema.org/draft-04/schema#", "draft6": "http://json-schema.org/draft-06/schema#",
          "draft7": "http://json-schema.org/draft-07/schema#",
          "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
          "draft2020-12": "https://json-schema.org/draft/2020-12/schema"}


def compiled(schema: Any) -> JsonSchema | str:
    """The schema, or the reason why it is refused."""
    try:
        return compile_schema(schema, "schema")
    except InvalidRequest as error:
        return error.message


def walked(schema: Any, made: JsonSchema, seed: int) -> tuple[str, str]:
    """One random text. "valid": both judges say so. "failed check": it would not be told. "wrong": it would be told (of
    an exact schema: already be streamed) and is invalid."""
    text = walk(f"start: {made.rule}", seed)
    if text is None:
        return "unfinished", ""
    fault = json_fault(text, made)
    if fault is not None:
        return ("wrong", f"{fault} in {text[:150]}") if made.exact else ("failed check", fault)
    fault = judged(schema, text)
    return ("valid", "") if fault is None else ("wrong", f"{fault} in {text[:150]}")


def judged(schema: Any, text: str) -> str | None:
    named = schema.get("$schema", "") if isinstance(schema, dict) else ""
    kind = next((judge for word, judge in _JUDGES.items() if word in named), jsonschema.Draft202012Validator)
    if isinstance(schema, dict) and not named and isinstance(schema.get("items"), list):
        kind = jsonschema.Draft7Validator
    try:
        error = next(kind(schema, registry=Registry()).iter_errors(json.loads(text)), None)
    except re.error:
        return None  # a pattern of JavaScript that Python cannot read
    return None if error is None else error.message[:200]


def suite_case(entry: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """`("valid" or "invalid", whether it is accepted)` of each instance; `("refused", False)` for a refused schema."""
    schema = entry["schema"]
    if isinstance(schema, dict):
        schema = {"$schema": DRAFTS[entry["file"].split("/")[0]], **schema}
    made = compiled(schema)
    if isinstance(made, str):
        yield "refused", False
        return
    for test in entry["tests"]:
        text = json.dumps(test["data"], ensure_ascii=False)
        accepted = allows(f"start: {made.rule}", text) and json_fault(text, made) is None
        yield "valid" if test["valid"] else "invalid", accepted
