"""LiteLLM's client, over its OpenAI and Anthropic routes. It is kept from fetching its list of prices."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
import litellm

MODEL = "starter-text"
ANSWER = "The capital of France is Paris."
PARIS: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
COLD: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "api_key": "none", "timeout": 120, "num_retries": 0}
WEATHER: Any = [{"type": "function", "function": {
    "name": "weather", "description": "The weather in a city", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
        "additionalProperties": False}}}]


class City(BaseModel):
    name: str
    country: str


@pytest.fixture
def asked(url: str) -> dict[str, Any]:
    return {**COLD, "model": f"openai/{MODEL}", "messages": PARIS, "api_base": f"{url}/v1"}


def test_completion(asked: dict[str, Any]) -> None:
    made = litellm.completion(**asked)
    assert made.choices[0].message.content == ANSWER and made.choices[0].finish_reason == "stop"
    assert made.usage.completion_tokens == 8 and made.usage.total_tokens > 8


def test_streamed(asked: dict[str, Any]) -> None:
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER and len(chunks) > 4
    whole = litellm.stream_chunk_builder(chunks)
    assert whole is not None and whole.usage.completion_tokens == 8


def test_async_and_streamed_at_once(asked: dict[str, Any]) -> None:
    async def work() -> list[str]:
        async def streamed() -> str:
            stream = await litellm.acompletion(**asked, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def whole() -> str:
            return str((await litellm.acompletion(**asked)).choices[0].message.content)
        return await asyncio.gather(streamed(), whole())

    assert asyncio.run(work()) == [ANSWER] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_tools(asked: dict[str, Any], stream: bool) -> None:
    asked |= {"tools": WEATHER, "tool_choice": "required", "max_tokens": 60}
    made = litellm.completion(**asked, stream=stream)
    if stream:
        made = litellm.stream_chunk_builder(list(made))
    call = made.choices[0].message.tool_calls[0]
    assert made.choices[0].finish_reason == "tool_calls" and call.function.name == "weather" and call.id
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    answered = litellm.completion(**{**asked, "tool_choice": "none", "messages": [
        *PARIS, made.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]})
    assert answered.choices[0].message.content


def test_response_format(asked: dict[str, Any]) -> None:
    made = litellm.completion(**{**asked, "max_tokens": 80}, response_format=City)
    assert City.model_validate_json(made.choices[0].message.content)


def test_vectors(url: str) -> None:
    made = litellm.embedding(model=f"openai/{MODEL}", input=["a cat", "a dog"], api_base=f"{url}/v1", api_key="none",
                             encoding_format="float")
    there = httpx.post(f"{url}/v1/embeddings", json={"model": MODEL, "input": ["a cat", "a dog"]}, timeout=60).json()
    for mine, theirs in zip(made.data, there["data"], strict=True):
        assert mine["embedding"] == pytest.approx(theirs["embedding"], abs=1e-5)


def test_text_completion(url: str) -> None:
    made = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="one two three", temperature=0,
                                   max_tokens=4, api_base=f"{url}/v1", api_key="none")
    assert made.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_over_messages(url: str, stream: bool) -> None:
    """As a server of Anthropic's."""
    made = litellm.completion(**COLD, model=f"anthropic/{MODEL}", messages=PARIS, api_base=url, stream=stream)
    if stream:
        made = litellm.stream_chunk_builder(list(made))
    assert made.choices[0].message.content == ANSWER and made.choices[0].finish_reason == "stop"


def test_models_of_one_request(asked: dict[str, Any]) -> None:
    """Another model answers where the first is not there; the client is told which one."""
    made = litellm.completion(**{**asked, "model": "openai/nothing"}, extra_body={"models": [MODEL]})
    assert made.choices[0].message.content == ANSWER and made.model.endswith(MODEL)


def test_errors(asked: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="nothing"):
        litellm.completion(**{**asked, "model": "openai/nothing"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**{**asked, "messages": [{"role": "user", "content": "word " * 3000}]})
    with pytest.raises(litellm.BadRequestError, match="top_p"):
        litellm.completion(**asked, top_p=7)
