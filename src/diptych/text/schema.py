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
from diptych.text.schema_patterns import grammar_pattern
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
_TOO_MUCH: dict[str, frozenset[str]] = {
    "oneOf": frozenset({"oneOf"}), "min/maxProperties": frozenset({"minProperties", "maxProperties"}),
    "patternProperty regexes": frozenset({"patternProperties"}), "multipleOf": frozenset({"multipleOf"})}
"""What the grammar says that it cannot enforce here, and the keywords that are left to the check."""
_BEFORE = "http://json-schema.org/draft-07/schema"


@dataclass(frozen=True)
class JsonSchema:
    """`held` is what the grammar enforces, `rule` the body of its rule; `unheld` are the keywords that only the check
    knows; `validators` are the whole schema: with named formats as rules, and as notes, which both readings have to
    take the answer for valid."""

    held: Any
    rule: str
    unheld: tuple[str, ...]
    validators: tuple[Any, ...] = field(repr=False)

    @property
    def exact(self) -> bool:
        """Whether the grammar enforces all of it."""
        return not self.unheld

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in one sentence; None where it is valid. Never raises."""
        try:
            error = next((error for one in self.validators for error in one.iter_errors(value)), None)
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
        held, unheld = _held(schema, draft, where)
    except Unsupported as problem:
        place = _path(where, problem.path)
        raise InvalidRequest(f"{place}: {problem}", param=place, code="unsupported_schema") from None
    return JsonSchema(held, json_rule(held), tuple(dict.fromkeys(unheld)), _validators(schema, kind, where))


def _held(schema: Any, draft: int, where: str) -> tuple[Any, tuple[str, ...]]:
    """What the grammar can be made of: as much of the schema as it takes. Raises InvalidRequest, Unsupported."""
    without: frozenset[str] = frozenset()
    words = _words(schema)
    while True:
        held, unheld = relaxed(schema, draft, without)
        if "oneOf" in without and isinstance(held, dict):
            held["x-guidance"] = {"coerce_one_of": True}
        fault = fault_of(f"start: {json_rule(held)}")
        if fault is None and "oneOf" not in without and {"oneOf", "format"} <= words:
            # Branches that only their formats tell apart are one to those who take formats for notes.
            fault = fault_of(f"start: {json_rule(relaxed(schema, draft, without | {'format'})[0])}")
        if fault is None:
            return held, (*unheld, *without)
        more = next((keys for word, keys in _TOO_MUCH.items() if word in fault), frozenset())
        if more <= without:
            raise InvalidRequest(f"{where}: this schema cannot be held: {_plain(fault)}", param=where,
                                 code="unsupported_schema")
        without |= more


def _words(value: Any) -> frozenset[str]:
    """All keys in the schema."""
    if isinstance(value, list):
        return frozenset().union(*map(_words, value)) if value else frozenset()
    return frozenset(value).union(*map(_words, value.values())) if isinstance(value, dict) else frozenset()


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
    elif isinstance(named, str) and (known := _NAMES.get(named.rstrip("#").partition("://")[2])) is not None:
        name, fault = known, _meta_fault(schema, known)
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
    """Patterns are looked at where they are used, in the language that they are written in."""
    meta = DRAFTS[name][1](_META[name], offline=True, validate_formats=False)
    return next(iter(meta.iter_errors(_without_name(schema))), None)


def _without_name(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in schema.items() if key != "$schema"}


_NAMES = {name.partition("://")[2]: name for name in DRAFTS} | {"json-schema.org/schema": NEWEST}
"""Written with http and https, with and without `#`."""
_META = {name: {"$ref": name if "/draft/" in name else name + "#"} for name in DRAFTS}


def _validators(schema: Any, kind: Any, where: str) -> tuple[Any, ...]:
    """Never fetches anything; regular expressions cannot run away (a bounded engine)."""
    plain = _without_name(schema) if isinstance(schema, dict) else schema
    for form in (plain, _patterns_told(plain)):
        try:
            made = (kind(form, validate_formats=True, offline=True),)
            return (*made, kind(form, validate_formats=False, offline=True)) if "format" in _words(schema) else made
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            message = getattr(error, "message", None) or str(error).splitlines()[0]
    raise InvalidRequest(f"{where} is not valid JSON Schema: {message[:200]}", param=where, code="invalid_schema")


def _patterns_told(value: Any) -> Any:
    """The schema with its patterns in stricter words: browsers take some that the check's engine does not."""
    if isinstance(value, list):
        return [_patterns_told(item) for item in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {
        key: grammar_pattern(item) if key == "pattern" and isinstance(item, str) else _patterns_told(item)
        for key, item in value.items()}
    if isinstance(made.get("patternProperties"), dict):
        made["patternProperties"] = {grammar_pattern(key): item for key, item in made["patternProperties"].items()}
    return made


def _path(where: str, parts: Any) -> str:
    made = where
    for part in list(parts)[:30]:
        made += f"[{part}]" if isinstance(part, int) else f".{ascii(str(part))[1:-1][:60]}"
    return made


def _plain(fault: str) -> str:
    return fault.removeprefix("failed to compile JSON schema: ")
