"""JSON schemas of requests: checked, put into the form that the grammar enforces, with a check of the result.

What the grammar cannot enforce (`not`, `if`, `uniqueItems` …) is left out of it and named in `unheld`: such an answer
is given to the client only after it has passed the check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs

from diptych.core.errors import InvalidRequest
from diptych.text.grammar import fault_of, json_rule
from diptych.text.schema_relax import Unsupported, relaxed

MAX_SCHEMA = 500_000
"""Characters of JSON."""
DRAFTS: dict[str, tuple[int, Any]] = {
    "http://json-schema.org/draft-04/schema": (4, jsonschema_rs.Draft4Validator),
    "http://json-schema.org/draft-06/schema": (6, jsonschema_rs.Draft6Validator),
    "http://json-schema.org/draft-07/schema": (7, jsonschema_rs.Draft7Validator),
    "https://json-schema.org/draft/2019-09/schema": (2019, jsonschema_rs.Draft201909Validator),
    "https://json-schema.org/draft/2020-12/schema": (2020, jsonschema_rs.Draft202012Validator),
}
NEWEST = "https://json-schema.org/draft/2020-12/schema"
_BEFORE = "http://json-schema.org/draft-07/schema"


@dataclass(frozen=True)
class JsonSchema:
    """`held` is what the grammar enforces, `rule` the body of its rule; `unheld` are the keywords that only the check
    knows; `validator` is the whole schema."""

    held: Any
    rule: str
    unheld: tuple[str, ...]
    validator: Any = field(repr=False)

    @property
    def exact(self) -> bool:
        """Whether the grammar enforces all of it."""
        return not self.unheld

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in one sentence; None where it is valid. Never raises."""
        try:
            error = next(iter(self.validator.iter_errors(value)), None)
        except (ValueError, OverflowError, RecursionError) as problem:
            return f"it could not be checked ({type(problem).__name__})"
        if error is None:
            return None
        place = _path("answer", error.instance_path)
        return f"{place}: {error.message[:200]}"


def compile_schema(schema: Any, where: str) -> JsonSchema:
    """The schema, ready to be held to.

    Args:
        schema: a JSON value; what JSON Schema allows: an object, or true and false.
        where: what the client calls the field, for the errors.

    Raises:
        InvalidRequest: it is no valid schema, has what is not supported, or nothing satisfies it.
    """
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest(f"{where} must be a JSON schema (an object), not {type(schema).__name__}", param=where)
    size = len(json.dumps(schema))
    if size > MAX_SCHEMA:
        raise InvalidRequest(f"{where} has {size} characters of JSON, at most {MAX_SCHEMA} are taken", param=where,
                             code="schema_too_large")
    draft, kind = _draft(schema, where)
    try:
        held, unheld = relaxed(schema, draft)
    except Unsupported as problem:
        place = _path(where, problem.path)
        raise InvalidRequest(f"{place}: {problem}", param=place, code="unsupported_schema") from None
    validator = _validator(schema, kind, where)
    rule = json_rule(held)
    fault = fault_of(f"start: {rule}")
    if fault is not None and "oneOf" in fault:
        held = {**held, "x-guidance": {"coerce_one_of": True}}
        unheld, rule = (*unheld, "oneOf"), json_rule(held)
        fault = fault_of(f"start: {rule}")
    if fault is not None:
        raise InvalidRequest(f"{where}: this schema cannot be held: {_plain(fault)}", param=where,
                             code="unsupported_schema")
    return JsonSchema(held, rule, tuple(dict.fromkeys(unheld)), validator)


def _draft(schema: Any, where: str) -> tuple[int, Any]:
    """The draft that the schema says it is of; without a word the newest, or draft 7 where it is valid only there."""
    if isinstance(schema, bool):
        return DRAFTS[NEWEST]
    named = schema.get("$schema")
    if named is None:
        fault = _meta_fault(schema, NEWEST)
        if fault is None or _meta_fault(schema, _BEFORE) is not None:
            name = NEWEST
        else:
            name, fault = _BEFORE, None
    elif isinstance(named, str) and (name := named.rstrip("#")) in DRAFTS:
        fault = _meta_fault({**schema, "$schema": name if "/draft/" in name else name + "#"}, name)
    elif isinstance(named, str) and named.rstrip("#") in ("http://json-schema.org/schema",
                                                          "https://json-schema.org/schema"):
        name, fault = NEWEST, _meta_fault({key: item for key, item in schema.items() if key != "$schema"}, NEWEST)
    else:
        place = f"{where}.$schema"
        raise InvalidRequest(f"{place} is {str(named)[:100]!a}, not one of {', '.join(DRAFTS)}", param=place,
                             code="unsupported_schema")
    if fault is not None:
        place = _path(where, fault.instance_path)
        raise InvalidRequest(f"{place} is not valid JSON Schema: {fault.message[:200]}", param=place,
                             code="invalid_schema")
    return DRAFTS[name]


def _meta_fault(schema: Any, name: str) -> Any:
    meta = DRAFTS[name][1](_META[name], offline=True)
    return next(iter(meta.iter_errors(schema)), None)


_META = {name: {"$ref": name if "/draft/" in name else name + "#"} for name in DRAFTS}


def _validator(schema: Any, kind: Any, where: str) -> Any:
    """Never fetches anything; regular expressions cannot run away (a bounded engine)."""
    try:
        return kind(schema, validate_formats=True, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        message = getattr(error, "message", None) or str(error).splitlines()[0]
        raise InvalidRequest(f"{where} is not valid JSON Schema: {message[:200]}", param=where,
                             code="invalid_schema") from None


def _path(where: str, parts: Any) -> str:
    made = where
    for part in list(parts)[:30]:
        made += f"[{part}]" if isinstance(part, int) else f".{ascii(str(part))[1:-1][:60]}"
    return made


def _plain(fault: str) -> str:
    return fault.removeprefix("failed to compile JSON schema: ")
