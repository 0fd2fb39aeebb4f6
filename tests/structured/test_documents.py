"""XML, YAML and the grammars that clients write: what they allow passes the check, and is what was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from schema_walks import walk

from diptych.core.chat import OutputFormat
from diptych.core.errors import InvalidRequest
from diptych.text.formats import Form, form_of
from diptych.text.grammar import allows

PERSON: dict[str, Any] = {
    "title": "person", "type": "object", "required": ["name", "age", "address"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12}, "yes": {"type": "boolean"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150}, "score": {"type": "number"},
        "born": {"type": "string", "format": "date"}, "kind": {"enum": ["a<b", "no", "null", "3"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "maxItems": 3},
        "address": {"type": ["object", "null"], "properties": {
            "zip": {"type": "string", "maxLength": 5},
            "point": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "items": False,
                      "minItems": 2}}},
        "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#"}}}}


def form(kind: Any, value: Any) -> Form:
    return form_of(OutputFormat(kind=kind, value=value, field="here"))


@pytest.mark.parametrize("kind", ["xml", "yaml"])
def test_documents_are_valid_by_their_schema(kind: str) -> None:
    made = form(kind, PERSON)
    assert not made.unheld
    done = 0
    for seed in range(40):
        text = walk(made.grammar, seed, soft=120)
        if text is not None:
            assert made.fault(text) is None, text
            done += 1
    assert done > 30


XML = ("<person><name>A&lt;b</name><yes>true</yes><age>3</age><kind>a&lt;b</kind><tags><item>a</item>"
       "<item>b</item></tags><address/></person>")
YAML = """name: "A<b"
"yes": true
age: 3
kind: "no"
tags:
  - "a"
  - "b"
address:
  point:
    - 1.5
    - -2
children:
  -
    name: "c"
    age: 1
    address: null
"""


def test_documents_as_they_are_written() -> None:
    xml, yml = form("xml", PERSON), form("yaml", PERSON)
    assert allows(xml.grammar, XML) and xml.fault(XML) is None
    assert allows(yml.grammar, YAML) and yml.fault(YAML) is None
    assert yaml.safe_load(YAML)["children"][0] == {"name": "c", "age": 1, "address": None}
    for bad in (XML.replace("<age>3</age>", ""), XML.replace("3", "400"), XML.replace("&lt;", "<"), XML[:-3],
                XML.replace("<yes>true</yes>", "<yes>yes</yes>"), "<!DOCTYPE a><person/>", XML + "x"):
        assert not allows(xml.grammar, bad) and xml.fault(bad) is not None
    for bad in (YAML.replace("age: 3\n", ""), YAML.replace('"no"', "no"), YAML.replace("true", "yes"), YAML[:-3],
                YAML.replace("  - ", "- - ")):
        assert not allows(yml.grammar, bad)


def test_what_documents_leave_to_the_check() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    for kind, good, bad in (("yaml", "- 1\n- 2\n", "- 1\n- 1\n"),
                            ("xml", "<root><item>1</item></root>", "<root><item>1</item><item>1</item></root>")):
        made = form(kind, schema)
        assert made.unheld == ("uniqueItems",)
        assert made.fault(good) is None and made.fault(bad) is not None
        assert allows(made.grammar, good) and allows(made.grammar, bad)


@pytest.mark.parametrize(("kind", "schema", "place"), [
    ("xml", {"type": "object", "properties": {"a": {"type": ["string", "integer"]}}}, "here"),
    ("xml", {"type": "object", "properties": {"1a": {"type": "string"}}}, "here"),
    ("xml", {"type": "object", "patternProperties": {"^a": {"type": "string"}}}, "here"),
    ("xml", None, "here"), ("yaml", None, "here"), ("yaml", True, "here"),
    ("yaml", {"type": "array"}, "here"), ("yaml", {"type": "object", "required": ["a"]}, "here"),
    ("yaml", {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}}, "here.properties.a"),
    ("yaml", {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "required": ["a"], "properties": {
        "a": {"$ref": "#/$defs/a"}}}}}, "here"),
    ("xml", {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "here"),
    ("yaml", {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "here")])
def test_schemas_outside_the_subset_are_refused(kind: str, schema: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        form(kind, schema)
    assert refused.value.param == place and refused.value.message.startswith(place)


@pytest.mark.parametrize(("kind", "value", "good", "bad"), [
    ("regex", "a|b/c", ["a", "b/c"], ["b", "ab/c"]), ("regex", "^(x\ny){2}$", ["x\nyx\ny"], ["x\ny"]),
    ("choice", ["a", 'say "hi"\n', "a b"], ["a", 'say "hi"\n', "a b"], ["", "a ", "say"]),
    ("gbnf", 'root ::= item ("," item)*\nitem ::= [0-9]+ | "\\u00e9" | "\\x41" # all', ["1,é,A", "22"], ["1,", "e"]),
    ("gbnf", 'root ::= "a" [^\\"\\\\]{1,2} "/"?', ["ab", "abc/"], ["a", 'a"']),
    ("lark", 'start: greeting "!"\ngreeting: "hi" | %json {"type": "integer"}', ["hi!", "42!"], ["hi", "x!"])])
def test_grammars_that_clients_write(kind: str, value: Any, good: list[str], bad: list[str]) -> None:
    made = form(kind, value)
    for text in good:
        assert allows(made.grammar, text) and made.fault(text) is None, text
    for text in bad:
        assert not allows(made.grammar, text), text


def test_white_space_does_not_go_on_for_ever() -> None:
    made = form("json_object", None)
    assert allows(made.grammar, '{"a": 1, "b": [1, 2]}')
    for bad in ('{ "a": 1}', '{"a":  1}', '{"a": 1}\n', '\n{"a": 1}', '{"a": 1 }'):
        assert not allows(made.grammar, bad)
    assert json.loads(walk(made.grammar, 3, soft=50) or "")  is not None
