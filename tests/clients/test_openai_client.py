"""OpenAI's own client: chat, streams, parse, responses; also without a loop of its own (async)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

MODEL = "starter-text"
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."
PARIS: Any = [{"role": "user", "content": QUESTION}]


class City(BaseModel):
    name: str
    country: str


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


def test_async_and_streamed_at_once(url: str) -> None:
    async def work() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
            async def streamed() -> str:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=PARIS, temperature=0, max_tokens=24, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def whole() -> str:
                made = await client.chat.completions.create(
                    model=MODEL, messages=PARIS, temperature=0, max_tokens=24)
                return made.choices[0].message.content or ""
            return await asyncio.gather(streamed(), whole(), streamed())

    assert asyncio.run(work()) == [ANSWER] * 3


def test_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=PARIS, temperature=0, max_tokens=24) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == ANSWER


def test_parse(client: openai.OpenAI) -> None:
    """A pydantic model in, an object of it out: the schema holds whatever the model would rather say."""
    made = client.chat.completions.parse(
        model=MODEL, messages=PARIS, temperature=0, max_tokens=80, response_format=City)
    assert isinstance(made.choices[0].message.parsed, City)


def test_responses(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=24)
    assert (made.output_text, made.status, made.object) == (ANSWER, "completed", "response")
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    french = client.responses.create(
        model=MODEL, instructions="Answer in French.", temperature=0, max_output_tokens=24, metadata={"a": "b"},
        input=[{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}])
    assert french.output_text != ANSWER
    assert french.metadata == {"a": "b"}
    short = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=2)
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


def test_responses_go_on_from_their_output(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=24)
    items: Any = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And of Italy?"}]
    second = client.responses.create(model=MODEL, input=items, temperature=0, max_output_tokens=24)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 8
    with pytest.raises(openai.BadRequestError, match="not stored") as refused:
        client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
    assert refused.value.param == "previous_response_id"


def test_responses_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=24) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.completed"]


def test_responses_logprobs_and_parse(client: openai.OpenAI) -> None:
    made: Any = client.responses.create(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=3, top_logprobs=2,
        include=["message.output_text.logprobs"])
    tokens = made.output[0].content[0].logprobs
    assert len(tokens) == 3
    assert len(tokens[0].top_logprobs) == 2
    parsed = client.responses.parse(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=80, text_format=City)
    assert isinstance(parsed.output_parsed, City)


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nothing", input="x")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input=QUESTION, tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model=MODEL, input="word " * 3000, stream=True)
    assert long.value.code == "context_length_exceeded"
