"""What becomes of the parts of a schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from schema_walks import walk

from diptych.core.errors import InvalidRequest
from diptych.text.formats_json import json_fault, parse_json
from diptych.text.grammar import allows
from diptych.text.schema import compile_schema
from diptych.text.schema_patterns import FORMATS, grammar_pattern


def accepts(schema: Any, value: Any) -> bool:
    made = compile_schema(schema, "schema")
    text = json.dumps(value, ensure_ascii=False)
    return allows(f"start: {made.rule}", text) and json_fault(text, made) is None


@pytest.mark.parametrize(("keyword", "schema", "good", "bad"), [
    ("uniqueItems", {"type": "array", "uniqueItems": True}, [1, 2], [1, 1]),
    ("not", {"type": "integer", "not": {"const": 3}}, 4, 3),
    ("if", {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
    ("contains", {"type": "array", "contains": {"type": "string"}}, [1, "a"], [1]),
    ("propertyNames", {"type": "object", "propertyNames": {"maxLength": 2}}, {"ab": 1}, {"abc": 1}),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    ("unevaluatedProperties", {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}, {"a": 1},
     {"b": 1}),
    ("oneOf", {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}, "ab", "abc"),
    ("pattern", {"type": "string", "pattern": "^(?!a)[a-z]+$"}, "bc", "ab"),
    ("dependencies", {"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}}, {"b": 1},
     {"a": 1})])
def test_what_the_grammar_cannot_hold_is_checked(keyword: str, schema: Any, good: Any, bad: Any) -> None:
    assert compile_schema(schema, "schema").unheld == (keyword,)
    assert accepts(schema, good)
    assert not accepts(schema, bad)


@pytest.mark.parametrize("schema", [
    {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "integer", "multipleOf": 3}}},
    {"type": "array", "prefixItems": [{"type": "string"}], "items": False}, {"enum": [1, "a", None, {"b": [2]}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "string", "pattern": r"^\d{2}$", "maxLength": 5},
    {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"},
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "number", "minimum": 0, "exclusiveMinimum": True,
     "maximum": 3}, {"type": "array", "uniqueItems": True, "maxItems": 1}])
def test_exact_schemas(schema: Any) -> None:
    made = compile_schema(schema, "schema")
    assert made.exact
    for seed in range(5):
        text = walk(f"start: {made.rule}", seed)
        assert text is not None
        jsonschema.validate(json.loads(text), schema)
        assert made.fault(parse_json(text)) is None


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("uri-template", "iri-reference")])
def test_named_formats_are_held(name: str) -> None:
    """Of every format a random text passes the strict check."""
    schema = {"type": "string", "format": name}
    made = compile_schema(schema, "schema")
    assert made.exact
    for seed in range(8):
        text = walk(f"start: {made.rule}", seed, soft=60)
        assert text is not None and made.fault(parse_json(text)) is None, text


@pytest.mark.parametrize(("pattern", "good", "bad"), [
    (r"^\d$", "7", "٧"), (r"^\w$", "_", "é"), (r"^.$", "a", "\u2028"), (r"^[\w-.]+$", "a-b.c", "a b"),
    (r"^{.*}$", "{x}", "x"), (r"^\/\-$", "/-", "-"), (r"^[[a]$", "[", "b"), (r"^\cJ$", "\n", "J"),
    (r"^[^\s]$", "x", " "), (r"^\x41\u0042$", "AB", "ab"), ("b", "abc", "ac")])
def test_patterns_mean_what_they_mean_in_javascript(pattern: str, good: str, bad: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert accepts(schema, good)
    assert not accepts(schema, bad)
    assert grammar_pattern("a{2}") == "a{2}"


def test_references() -> None:
    """By place, by anchor, by name; into parts that are no schema keyword; drafts differ in what stands beside one."""
    inner = {"type": "string", "maxLength": 2}
    for schema in ({"$ref": "#/components/schemas/A", "components": {"schemas": {"A": inner}}},
                   {"$ref": "#short", "$defs": {"x": {"$anchor": "short", **inner}}},
                   {"$id": "http://example.org/a", "$ref": "b", "$defs": {"x": {"$id": "b", **inner}}},
                   {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": inner}}):
        assert accepts(schema, "ab") and not accepts(schema, "abc")
    beside = {"$ref": "#/definitions/a", "minLength": 2, "definitions": {"a": {"type": "string"}}}
    assert not accepts(beside, "a")
    assert accepts({"$schema": "http://json-schema.org/draft-07/schema#", **beside}, "a")


def test_a_schema_without_a_draft_is_of_the_one_it_is_valid_in() -> None:
    assert accepts({"type": "array", "items": [{"type": "string"}], "additionalItems": False}, ["a"])
    assert not accepts({"type": "array", "items": [{"type": "string"}], "additionalItems": False}, [1])


def test_no_runaway() -> None:
    """A pattern that a backtracking engine would take ages for, and schemas without measure."""
    made = compile_schema({"type": "string", "pattern": "^(a+)+$"}, "schema")
    assert made.fault("a" * 5000 + "b") is not None
    for schema in ({"enum": ["x" * 600_000]}, {"type": "string", "pattern": "(a{1000}){1000}"}):
        with pytest.raises(InvalidRequest):
            compile_schema(schema, "schema")


def test_numbers_without_measure_are_json_all_the_same() -> None:
    made = compile_schema({"type": "number", "minimum": 0}, "schema")
    assert json_fault("1e999", made) is None and json_fault("-1e999", made) is not None
    assert json_fault("9" * 5000, made) is None and json_fault("NaN", made) is not None
    assert json_fault('"\\ud800"', made) is not None
