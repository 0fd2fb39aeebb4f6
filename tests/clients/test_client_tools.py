"""Tools, through the clients of OpenAI, Anthropic and Mistral: forced calls with any model, streamed, and answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from mistralai.client import Mistral
from pydantic import BaseModel, Field

MODEL = "starter-text"
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA: dict[str, Any] = {
    "type": "object", "required": ["city", "unit"], "additionalProperties": False,
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}}}
FUNCTION: dict[str, Any] = {"name": "get_weather", "description": "The weather of a city", "parameters": SCHEMA}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
COLD: Any = {"model": MODEL, "temperature": 0, "max_tokens": 80}
RESULT = "21 C, sunny"


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=20)
    unit: Literal["C", "F"]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture
def mistral(url: str) -> Iterator[Mistral]:
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        yield client


def check(arguments: Any) -> None:
    Weather.model_validate(json.loads(arguments) if isinstance(arguments, str) else arguments)


def test_required_and_answered(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(messages=ASKED, tools=TOOLS, tool_choice="required", **COLD).choices[0]
    assert (made.finish_reason, made.message.content) == ("tool_calls", None)
    calls: Any = made.message.tool_calls
    assert calls[0].function.name == "get_weather"
    check(calls[0].function.arguments)
    history = [*ASKED, made.message, {"role": "tool", "tool_call_id": calls[0].id, "content": RESULT}]
    told = client.chat.completions.create(messages=history, tools=TOOLS, tool_choice="none", **COLD).choices[0]
    assert told.finish_reason == "stop"
    assert told.message.content


def test_named_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(messages=ASKED, tools=TOOLS, tool_choice=NAMED, stream=True, **COLD)
    calls, reasons = [], []
    for chunk in stream:
        calls += chunk.choices[0].delta.tool_calls or []
        reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] == "tool_calls"
    assert [bool(call.id) for call in calls] == [True] + [False] * (len(calls) - 1)
    assert len(calls) > 3
    check("".join(call.function.arguments for call in calls))
    with client.chat.completions.stream(messages=ASKED, tools=TOOLS, tool_choice=NAMED, **COLD) as helper:
        final = helper.get_final_completion()
    check(final.choices[0].message.tool_calls[0].function.arguments)  # type: ignore[index]


def test_parsed_and_two_answers(client: openai.OpenAI) -> None:
    made = client.chat.completions.parse(
        messages=ASKED, tools=[openai.pydantic_function_tool(Weather)], tool_choice="required", n=2, seed=1, **COLD)
    for choice in made.choices:
        calls: Any = choice.message.tool_calls
        assert isinstance(calls[0].function.parsed_arguments, Weather)


def test_the_old_form(client: openai.OpenAI) -> None:
    old: Any = {"functions": [FUNCTION], "function_call": {"name": "get_weather"}}
    made = client.chat.completions.create(messages=ASKED, **old, **COLD).choices[0]
    assert made.finish_reason == "function_call"
    assert made.message.tool_calls is None
    assert made.message.function_call is not None
    check(made.message.function_call.arguments)
    stream = client.chat.completions.create(messages=ASKED, stream=True, **old, **COLD)
    deltas = [chunk.choices[0].delta.function_call for chunk in stream if chunk.choices[0].delta.function_call]
    assert deltas[0].name == "get_weather"
    check("".join(delta.arguments or "" for delta in deltas))
    history: Any = [*ASKED, {"role": "assistant", "content": None, "function_call": made.message.function_call},
                    {"role": "function", "name": "get_weather", "content": RESULT}]
    assert client.chat.completions.create(messages=history, **COLD).choices[0].message.content


def test_responses(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **FUNCTION, "strict": True}]
    forced: Any = {"model": MODEL, "tools": tools, "temperature": 0, "max_output_tokens": 80}
    made: Any = client.responses.create(input=ASKED, tool_choice="required", **forced)
    assert [item.type for item in made.output] == ["function_call"]
    check(made.output[0].arguments)
    with client.responses.stream(
            input=ASKED, tool_choice={"type": "function", "name": "get_weather"}, **forced) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_response()
    check(final.output[0].arguments)
    assert "response.function_call_arguments.delta" in kinds
    assert kinds[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    history = [*ASKED, *made.output, {"type": "function_call_output", "call_id": made.output[0].call_id,
                                      "output": RESULT}]
    told = client.responses.create(input=history, tool_choice="none", **forced)
    assert told.output_text


def test_anthropic(claude: anthropic.Anthropic) -> None:
    more: Any = {"model": MODEL, "max_tokens": 80, "extra_body": {"temperature": 0},
                 "tools": [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}]}
    made: Any = claude.messages.create(messages=ASKED, tool_choice={"type": "any"}, **more)
    assert made.stop_reason == "tool_use"
    assert [block.type for block in made.content] == ["tool_use"]
    check(made.content[0].input)
    with claude.messages.stream(
            messages=ASKED, tool_choice={"type": "tool", "name": "get_weather"}, **more) as stream:
        kinds = {event.type for event in stream}
        final: Any = stream.get_final_message()
    assert "input_json" in kinds
    check(final.content[0].input)
    history: Any = [*ASKED, {"role": "assistant", "content": made.content}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": made.content[0].id, "content": RESULT}]}]
    told: Any = claude.messages.create(messages=history, tool_choice={"type": "none"}, **more)
    assert (told.stop_reason, told.content[0].type) in (("end_turn", "text"), ("max_tokens", "text"))
    counted = claude.messages.count_tokens(model=MODEL, messages=ASKED, tools=more["tools"])
    assert counted.input_tokens > claude.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens


def test_mistral(mistral: Mistral) -> None:
    """Its client takes a streamed call in one piece only."""
    made: Any = mistral.chat.complete(messages=ASKED, tools=TOOLS, tool_choice="any", **COLD).choices[0]
    assert made.finish_reason == "tool_calls"
    check(made.message.tool_calls[0].function.arguments)
    streamed = [event.data.choices[0] for event in mistral.chat.stream(
        messages=ASKED, tools=TOOLS, tool_choice="any", **COLD)]
    calls: Any = [choice.delta.tool_calls for choice in streamed if choice.delta.tool_calls]
    assert len(calls) == 1
    check(calls[0][0].function.arguments)
    assert streamed[-1].finish_reason == "tool_calls"
    history: Any = [*ASKED, made.message, {
        "role": "tool", "tool_call_id": made.message.tool_calls[0].id, "name": "get_weather", "content": RESULT}]
    told: Any = mistral.chat.complete(messages=history, tools=TOOLS, tool_choice="none", **COLD).choices[0]
    assert told.message.content
