"""Guaranteed output and calls through the real server: SmolLM2, and Mistral models with random weights."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

PERSON = {"title": "person", "type": "object", "properties": {
    "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"enum": ["old", "new"]}, "maxItems": 2}},
    "required": ["name", "age"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city",
                                            "parameters": {"type": "object", "properties": {
                                                "city": {"type": "string", "maxLength": 20},
                                                "unit": {"enum": ["c", "f"]}}, "required": ["city", "unit"]}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SHORT = 400


def body(content: str = "Tell me about Ada, aged 36.", **more: Any) -> dict[str, Any]:
    return {"model": "starter-text", "messages": [{"role": "user", "content": content}], "max_tokens": SHORT,
            "seed": 3, **more}


def ask(http: httpx.Client, path: str = "/v1/chat/completions", **request: Any) -> dict[str, Any]:
    answer = http.post(path, json=request)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0])


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("asked", [
    {"response_format": schema_format(PERSON)}, {"json_schema": PERSON}, {"guided_json": PERSON},
    {"structured_outputs": {"json": PERSON}}, {"response_format": {"type": "json_object", "schema": PERSON}}])
def test_a_json_schema_under_every_name(http: httpx.Client, asked: dict[str, Any]) -> None:
    choice = ask(http, **body(**asked))
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)


@pytest.mark.parametrize(("asked", "pattern"), [
    ({"response_format": {"type": "regex", "pattern": "[A-Z][a-z]{2,8} is [0-9]{1,3}"}},
     "[A-Z][a-z]{2,8} is [0-9]{1,3}"),
    ({"guided_regex": r"^\d{2}/\d{2}$"}, r"\d{2}/\d{2}"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"structured_outputs": {"choice": ["a b", "a"]}}, "a b|a"),
    ({"grammar": 'root ::= "the " ("cat" | "dog") [.!]'}, r"the (cat|dog)[.!]"),
    ({"guided_grammar": 'start: "x" /[0-9]{3}/'}, "x[0-9]{3}"),
    ({"response_format": {"type": "lark", "grammar": 'start: "<" WORD ">"\nWORD: /[a-z]{1,6}/'}}, "<[a-z]{1,6}>")])
def test_patterns_choices_and_grammars(http: httpx.Client, asked: dict[str, Any], pattern: str) -> None:
    choice = ask(http, **body(**asked))
    assert choice["finish_reason"] == "stop"
    assert re.fullmatch(pattern, choice["message"]["content"])


def test_xml_and_yaml(http: httpx.Client) -> None:
    text = ask(http, **body(response_format={"type": "xml", "schema": PERSON}))["message"]["content"]
    person = ElementTree.fromstring(text)
    assert person.tag == "person" and 0 <= int(person.findtext("age") or "-1") <= 150 and person.findtext("name")
    text = ask(http, **body(response_format={"type": "yaml", "schema": PERSON}))["message"]["content"]
    jsonschema.validate(yaml.safe_load(text), PERSON)


def test_json_object_and_completions(http: httpx.Client) -> None:
    found = ask(http, **body("A small JSON object", response_format={"type": "json_object"}))
    assert isinstance(json.loads(found["message"]["content"]), dict)
    text = ask(http, "/v1/completions", model="starter-text", prompt="Ada is 36:", max_tokens=SHORT, seed=1,
               response_format=schema_format(PERSON))["text"]
    jsonschema.validate(json.loads(text), PERSON)


def test_what_only_a_check_knows_is_valid_too(http: httpx.Client) -> None:
    """`uniqueItems` and `not` are no part of the grammar."""
    schema = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 2,
              "uniqueItems": True}
    for seed in range(4):
        choice = ask(http, **{**body("Two colours", response_format=schema_format(schema)), "seed": seed})
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)


def test_what_never_passes_its_check_is_an_error_and_no_answer(http: httpx.Client) -> None:
    schema = {"enum": ["red", "green"], "not": {"enum": ["red", "green"]}}
    answer = http.post("/v1/chat/completions", json=body(response_format=schema_format(schema)))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_output" and "4 answers were made" in error["message"] and "not" in error["message"]


def test_the_token_limit_is_told(http: httpx.Client) -> None:
    choice = ask(http, **{**body(response_format=schema_format(PERSON)), "max_tokens": 4})
    assert choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice["message"]["content"])


def test_json_is_streamed_as_it_is_made(http: httpx.Client) -> None:
    chunks = streamed(http, body(response_format=schema_format(PERSON)))
    texts = [chunk["delta"].get("content") for chunk in chunks if chunk["delta"].get("content")]
    assert len(texts) > 5
    jsonschema.validate(json.loads("".join(texts)), PERSON)
    assert chunks[-1]["finish_reason"] == "stop"


def streamed(http: httpx.Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    return [json.loads(line)["choices"][0] for line in lines]


@pytest.mark.parametrize("model", ["starter-text", "tiny-mistral-v7", "tiny-mistral-v11"])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_calls_hold_their_schema_with_any_model(http: httpx.Client, model: str, choice: Any) -> None:
    """The Mistral models have random weights: nothing but the grammar makes them call."""
    found = ask(http, **body("What is the weather in Paris?", tools=[WEATHER, CLOCK], tool_choice=choice,
                             parallel_tool_calls=False) | {"model": model})
    assert found["finish_reason"] == "tool_calls", found
    [call] = found["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    if choice != "required":
        assert call["function"]["name"] == "get_weather"
    if call["function"]["name"] == "get_weather":
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])  # type: ignore[index]
    else:
        assert arguments == {}
    assert re.fullmatch("[a-zA-Z0-9]{9}" if "mistral" in model else "call_[a-zA-Z0-9]{24}", call["id"])
    assert not found["message"]["content"]


def test_calls_are_streamed_name_first(http: httpx.Client) -> None:
    chunks = streamed(http, body("What is the weather in Paris?", tools=[WEATHER], tool_choice="required"))
    pieces = [piece for chunk in chunks for piece in chunk["delta"].get("tool_calls", [])]
    assert pieces[0]["function"]["name"] == "get_weather" and pieces[0]["id"] and not pieces[0]["function"]["arguments"]
    assert len(pieces) > 4 and all("name" not in piece["function"] for piece in pieces[1:])
    json.loads("".join(piece["function"]["arguments"] for piece in pieces))
    assert chunks[-1]["finish_reason"] == "tool_calls"


def test_a_conversation_goes_on_after_a_call(http: httpx.Client) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    for model in ("starter-text", "tiny-mistral-v11"):
        call = ask(http, model=model, messages=[question], tools=[WEATHER], tool_choice="required", max_tokens=SHORT,
                   parallel_tool_calls=False)["message"]
        result = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": '{"degrees": 21}'}
        again = ask(http, model=model, messages=[question, call, result], tools=[WEATHER], tool_choice="none",
                    max_tokens=8)
        assert again["message"]["content"] and "tool_calls" not in again["message"]


def test_auto_never_fails(http: httpx.Client) -> None:
    for strict in (False, True):
        tool = {"type": "function", "function": {**WEATHER["function"], "strict": strict}}  # type: ignore[dict-item]
        for model in ("starter-text", "tiny-mistral-v11"):
            found = ask(http, **body("Call get_weather for Paris.", tools=[tool]) | {"model": model, "max_tokens": 60})
            for call in found["message"].get("tool_calls", []):
                if found["finish_reason"] == "tool_calls":
                    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER["function"]["parameters"])


def test_a_form_beside_tools(http: httpx.Client) -> None:
    found = ask(http, **body("Tell me about Ada, aged 36.", tools=[WEATHER], response_format=schema_format(PERSON)))
    if found["finish_reason"] == "stop":
        jsonschema.validate(json.loads(found["message"]["content"]), PERSON)
    else:
        assert found["finish_reason"] == "tool_calls"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"response_format": schema_format({"type": "foo"})}, "response_format.json_schema.schema.type"),
    ({"response_format": schema_format({"properties": {"a": {"minimum": "x"}}})},
     "response_format.json_schema.schema.properties.a.minimum"),
    ({"response_format": schema_format({"$ref": "http://example.org/schema"})},
     "response_format.json_schema.schema.$ref"),
    ({"response_format": schema_format({"items": {"$ref": "#/nowhere"}})},
     "response_format.json_schema.schema.items.$ref"),
    ({"response_format": schema_format({"enum": []})}, "response_format.json_schema.schema"),
    ({"response_format": schema_format(False)}, "response_format.json_schema.schema"),
    ({"response_format": schema_format({"type": "string", "pattern": "(a"})}, "response_format.json_schema.schema"),
    ({"response_format": schema_format({"$dynamicRef": "#a"})}, "response_format.json_schema.schema.$dynamicRef"),
    ({"response_format": schema_format({"$schema": "http://example.org/"})},
     "response_format.json_schema.schema.$schema"),
    ({"guided_json": {"type": 3}}, "guided_json.type"), ({"json_schema": {"required": "a"}}, "json_schema.required"),
    ({"guided_regex": "(a"}, "guided_regex"), ({"guided_regex": "^$"}, "guided_regex"),
    ({"grammar": "root ::= nothing"}, "grammar"), ({"grammar": "x ::= \"a\""}, "grammar"),
    ({"grammar": "root ::= [a"}, "grammar"),
    ({"response_format": {"type": "lark", "grammar": "start: foo"}}, "response_format.grammar"),
    ({"response_format": {"type": "lark", "grammar": "foo: \"a\""}}, "response_format.grammar"),
    ({"response_format": {"type": "xml"}}, "response_format.schema"),
    ({"response_format": {"type": "xml", "schema": {"type": "object", "properties": {"a b": {"type": "string"}}}}},
     "response_format.schema"),
    ({"response_format": {"type": "yaml", "schema": {"type": "object", "properties": {"a": {}}}}},
     "response_format.schema.properties.a"),
    ({"response_format": {"type": "choice", "choices": []}}, "response_format.choices"),
    ({"guided_choice": ["a", ""]}, "guided_choice[1]"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ({"guided_regex": "a+", "stop": ["b"]}, "stop"), ({"guided_regex": "a+", "ignore_eos": True}, "ignore_eos"),
    ({"guided_regex": "a+", "min_tokens": 3}, "min_tokens"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
     "tools[0].function.parameters.type"),
    ({"tools": [CLOCK, {"type": "function", "function": {"name": "b", "parameters": {"properties": {
        "x": {"type": "foo"}}}}}]}, "tools[1].function.parameters.properties.x.type"),
    ({"tools": [WEATHER], "tool_choice": "required", "stop": "x"}, "stop"),
    ({"tools": [WEATHER], "grammar": "root ::= \"a\""}, "response_format"),
]


@pytest.mark.parametrize(("asked", "param"), BAD, ids=range(len(BAD)))
def test_bad_requests_name_their_field(http: httpx.Client, asked: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/chat/completions", json=body(**asked))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text
