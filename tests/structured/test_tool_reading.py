"""Calls as families write them: what the grammar allows is read back, what no grammar held is mended or is text."""

from __future__ import annotations

import json
import re
from typing import Any

import llguidance
import pytest
from mistral_common.guidance.grammar_factory import GrammarFactory
from mistral_common.protocol.instruct.tool_calls import Function, ToolChoiceEnum
from mistral_common.protocol.instruct.tool_calls import Tool as MistralTool
from schema_walks import walk
from tiny import mistral

from diptych.core.cards import Card
from diptych.core.chat import Message, NamedChoice, Tool, ToolCall
from diptych.core.events import Event, Failed, Finished, TokenDelta, ToolCallDelta
from diptych.core.grammars import with_ids
from diptych.core.specs import ChatSpec
from diptych.engines.text.mistral import MistralPrompts
from diptych.engines.text.vocabulary import read_vocabulary
from diptych.text.prepare import Prepared, prepare
from diptych.text.toolparse_repair import repaired_json

WEATHER = Tool(name="get_weather", description="The weather", parameters={
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]})
CLOCK = Tool(name="clock")
FAMILIES: list[dict[str, Any]] = [
    {"dialect": "hermes"}, {"dialect": "mistral", "tokenizer": "mistral-v7"}, {"dialect": "granite"},
    {"dialect": "mistral", "tokenizer": "mistral-v11"}, {"dialect": "llama3"}, {"dialect": "deepseek"},
    {"dialect": "functionary"}, {"dialect": None, "tools": False}]


def card(**family: Any) -> Card:
    return Card(id="m", panel="text", family="gguf", format="gguf", path="m", bytes=1, **{"tools": True, **family})


def prepared(family: dict[str, Any], **asked: Any) -> Prepared:
    spec = ChatSpec(model="m", messages=(Message(role="user", content="?"),),
                    **{"tools": (WEATHER, CLOCK), **asked})
    return prepare(spec, card(**family))


def read(made: Prepared, text: str, size: int = 3, reason: str = "stop") -> tuple[str, list[dict[str, str]], Event]:
    """Text, calls and last event, of a text that comes in pieces of `size` characters."""
    reader, events = made.reader(), list[Event]()
    for at in range(0, len(text), size):
        events += reader.read(TokenDelta(text=text[at:at + size]))
    events += reader.read(Finished(reason=reason))
    calls: list[dict[str, str]] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if event.index == len(calls):
                assert event.id and event.name and not event.arguments
                calls.append({"id": event.id, "name": event.name, "arguments": ""})
            calls[event.index]["arguments"] += event.arguments
    return "".join(event.text for event in events if isinstance(event, TokenDelta)), calls, events[-1]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("choice", ["required", NamedChoice(name="get_weather")], ids=str)
def test_forced_calls_are_read_back(family: dict[str, Any], choice: Any) -> None:
    made = prepared(family, tool_choice=choice)
    assert made.spec.grammar is not None
    for seed in range(4):
        text = walk(with_ids(made.spec.grammar, {}), seed, soft=150)
        assert text is not None
        for size in (1, 5, 100_000):
            said, calls, last = read(made, text, size)
            assert not said.strip() and calls and last == Finished(reason="tool_calls")
            assert len({call["id"] for call in calls}) == len(calls)
            for call in calls:
                arguments = json.loads(call["arguments"])
                assert call["name"] in ("get_weather", "clock")
                assert isinstance(arguments.get("city", ""), str) and isinstance(arguments.get("days", 1), int)
                assert arguments.keys() <= ({"city", "days"} if call["name"] == "get_weather" else set())
        if isinstance(choice, NamedChoice):
            assert [call["name"] for call in calls] == ["get_weather"]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_strict_calls_stand_beside_free_text(family: dict[str, Any]) -> None:
    made = prepared(family, tools=(WEATHER.model_copy(update={"strict": True}), CLOCK))
    forced = prepared(family, tool_choice="required")
    assert made.spec.grammar is not None and forced.spec.grammar is not None
    call = walk(with_ids(forced.spec.grammar, {}), 1, soft=100)
    assert call is not None
    said, calls, last = read(made, call)
    assert calls and not said.strip() and last == Finished(reason="tool_calls")
    said, calls, last = read(made, "It is { not } a call < at all.")
    assert said == "It is { not } a call < at all." and not calls and last == Finished()
    if family["dialect"] != "llama3":
        said, calls, last = read(made, "Let me see. " + call)
        assert said.startswith("Let me see.") and calls


HERMES, ARGS, LIST, LLAMA = FAMILIES[0], FAMILIES[3], FAMILIES[1], FAMILIES[4]
GOOD = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize(("family", "text", "arguments"), [
    (HERMES, f"<tool_call>{GOOD}</tool_call>", ['{"city": "Paris"}']),
    (HERMES, f"<tool_call>\n{GOOD}\n</tool_call>\n<tool_call>\n{GOOD}\n</tool_call>\n", ['{"city": "Paris"}'] * 2),
    (HERMES, f"<tool_call>\n{GOOD}", ['{"city": "Paris"}']),
    (HERMES, "<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Paris',}}</tool_call>", ['{"city": "Paris"}']),
    (HERMES, '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
     ['{"city": "Paris"}']),
    (HERMES, '<tool_call>{"name": "functions.get_weather", "parameters": {"city": "Paris"}}</tool_call>',
     ['{"city": "Paris"}']),
    (HERMES, '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris", "days": "3"}}</tool_call>',
     ['{"city": "Paris", "days": 3}']),
    (HERMES, '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"</tool_call>', ['{"city": "Paris"}']),
    (HERMES, '<tool_call>{"name": "clock"}</tool_call>', ["{}"]),
    (ARGS, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', ['{"city": "Paris"}']),
    (ARGS, '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}[TOOL_CALLS]clock[ARGS]{}',
     ['{"city": "Paris"}', "{}"]),
    (LIST, f'[TOOL_CALLS][{GOOD}, {{"name": "clock", "arguments": {{}}}}]', ['{"city": "Paris"}', "{}"]),
    (LIST, '[TOOL_CALLS] [{"name": "clock", "arguments": {}, "id": "abcdefghi"}]', ["{}"]),
    (LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', ['{"city": "Paris"}']),
    (LLAMA, '<|python_tag|>{"name": "clock", "parameters": {}}; {"name": "clock", "parameters": {}}', ["{}"] * 2),
    (FAMILIES[7], f"```json\n{GOOD}\n```", ['{"city": "Paris"}']),
    (FAMILIES[7], '{"type": "function", "function": {"name": "clock", "arguments": {}}}', ["{}"])])
def test_free_calls_are_found_and_mended(family: dict[str, Any], text: str, arguments: list[str]) -> None:
    for size in (1, 4, 1000):
        said, calls, last = read(prepared(family), text, size)
        assert [call["arguments"] for call in calls] == arguments and not said.strip()
        assert last == Finished(reason="tool_calls")


@pytest.mark.parametrize(("family", "text"), [
    (HERMES, '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "get_weather", "arguments": {"city": 3.5, "days": "many"}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call> then'),
    (HERMES, "<tool_call>what?</tool_call>"), (HERMES, "a < b and <tool"), (ARGS, "[TOOL_CALLS]get_weather Paris"),
    (LLAMA, '{"answer": 3}'), (LLAMA, "{ not json"), (FAMILIES[7], '{"name": "Ada", "age": 36}'),
    (FAMILIES[7], "```json\n[1, 2]\n```"), (FAMILIES[7], "```python\nprint(1)\n```"), (HERMES, ""),
    (HERMES, "<tool_call>" + "[" * 500)])
def test_what_is_no_call_is_text(family: dict[str, Any], text: str) -> None:
    for size in (1, 7, 10_000):
        said, calls, last = read(prepared(family), text, size)
        assert said == text and not calls and last == Finished()


def test_a_call_that_was_cut_off_is_text_and_json_that_is_none_is_streamed() -> None:
    said, calls, last = read(prepared(HERMES), '<tool_call>{"name": "clock", "argum', reason="length")
    assert said.startswith("<tool_call>") and not calls and last == Finished(reason="length")
    reader = prepared(FAMILIES[7]).reader()
    told = [event for at in range(100) for event in reader.read(TokenDelta(text=f'{{"key {at}": '))]
    assert len(told) > 50


def test_a_forced_call_that_is_not_whole_is_an_error() -> None:
    made = prepared(HERMES, tool_choice="required")
    _, _, last = read(made, '<tool_call>\n{"name": "clock", "arguments": {')
    assert isinstance(last, Failed) and last.status == 422


def test_arguments_that_only_a_check_knows_are_checked() -> None:
    tool = Tool(name="pick", parameters={"type": "object", "properties": {
        "of": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}}, "required": ["of"]})
    made = prepared(HERMES, tools=(tool,), tool_choice="required")
    assert made.unheld == ("uniqueItems",)
    call = '<tool_call>\n{{"name": "pick", "arguments": {{"of": [{}]}}}}\n</tool_call>'
    assert isinstance(read(made, call.format("1, 1"))[2], Failed)
    assert read(made, call.format("1, 2"))[2] == Finished(reason="tool_calls")


def test_a_model_without_tools_is_told_of_them_and_reads_its_calls_as_text() -> None:
    call = ToolCall(id="call_1", name="clock", arguments="{}")
    spec = ChatSpec(model="m", tools=(WEATHER, CLOCK), messages=(
        Message(role="system", content="Be brief."), Message(role="user", content="?"),
        Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="noon", tool_call_id="call_1")))
    told = prepare(spec, card(dialect=None, tools=False)).spec
    assert isinstance(told, ChatSpec) and not told.tools
    system, _, assistant, result = told.messages
    assert system.text.startswith("Be brief.") and '"name": "get_weather"' in system.text
    assert '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' in assistant.text
    assert not assistant.tool_calls
    assert result.role == "user" and "noon" in result.text
    with_template = prepare(spec, card(dialect="hermes")).spec
    assert isinstance(with_template, ChatSpec) and with_template.messages == spec.messages and with_template.tools
    none = prepare(spec.model_copy(update={"tool_choice": "none"}), card(dialect="hermes")).spec
    assert isinstance(none, ChatSpec) and not none.tools and none.grammar is None


def test_mistrals_own_grammar_allows_what_ours_does() -> None:
    """Over the tokens of a model of 3.2's vocabulary: every call that is held here is one for mistral-common."""
    vocabulary = read_vocabulary(mistral("v11"))
    factory = GrammarFactory(MistralPrompts(vocabulary, "mistral-v11").tokenizer)
    strict = [MistralTool(function=Function(name=tool.name, description="", parameters=tool.parameters, strict=True))
              for tool in (WEATHER, CLOCK)]
    theirs = factory.get_lark_from_jinja(factory.select_jinja_template(), ToolChoiceEnum.required, strict, None, True,
                                         False, True)
    made = prepared(ARGS, tool_choice="required")
    assert made.spec.grammar is not None
    ids = {vocabulary.tokens[id]: id for id in vocabulary.special}
    ours = with_ids(made.spec.grammar, ids)
    bytes_of = {vocabulary.bytes_of(id): id for id in range(len(vocabulary)) if id not in set(vocabulary.special)}
    for seed in range(3):
        text = walk(with_ids(made.spec.grammar, {}), seed, soft=60)
        assert text is not None
        tokens = []
        for part in re.split(r"(\[TOOL_CALLS\]|\[ARGS\])", text):
            tokens += [ids[part]] if part in ids else [bytes_of[bytes([byte])] for byte in part.encode()]
        for grammar in (ours, theirs):
            matcher = llguidance.LLMatcher(factory.llg_tokenizer, grammar)
            assert matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting(), matcher.get_error()


@pytest.mark.parametrize(("text", "value"), [
    ("{'a': 1,}", {"a": 1}), ('{"a": True, b: None}', {"a": True, "b": None}), ('[1 2, 3', [1, 2, 3]),
    ('{"a": "x\ny"}', {"a": "x\ny"}), ('{"a": {"b": [1, {"c": 2', {"a": {"b": [1, {"c": 2}]}}),
    ('{"a": 1} }', {"a": 1}), ("```json\n{\"a\": 1}\n```", {"a": 1}), ('{"a": 1 /* one */, // two\n "b": 2}',
                                                                      {"a": 1, "b": 2}), ('{"a"', None), ("", None),
    ('{"a": 1} and more', None), ("{" * 100, None), ('{"a": "\\u00e9\\ud83d\\ude00"}', {"a": "é😀"}),
    ("{a = 1}", {"a": 1})])
def test_repair_of_json(text: str, value: Any) -> None:
    if value is None:
        with pytest.raises(ValueError, match=r"."):
            repaired_json(text)
    else:
        assert repaired_json(text) == value
