"""Anthropic's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

MODEL = "starter-text"
ANSWER = "The capital of France is Paris."
PARIS: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
COLD: Any = {"extra_body": {"temperature": 0}}


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", timeout=120, max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_message(client: anthropic.Anthropic) -> None:
    made = client.messages.create(model=MODEL, messages=PARIS, max_tokens=24, **COLD)
    assert (made.type, made.role, made.stop_reason, text_of(made)) == ("message", "assistant", "end_turn", ANSWER)
    assert made.usage.output_tokens == 8
    short = client.messages.create(model=MODEL, messages=PARIS, max_tokens=2, **COLD)
    assert short.stop_reason == "max_tokens"


def test_system_blocks_and_stop(client: anthropic.Anthropic) -> None:
    french = client.messages.create(
        model=MODEL, messages=PARIS, max_tokens=24, system=[{"type": "text", "text": "Answer in French."}], **COLD)
    assert text_of(french) != ANSWER
    stopped = client.messages.create(
        model=MODEL, max_tokens=24, stop_sequences=[" France"], **COLD,
        messages=[{"role": "user", "content": [{"type": "text", "text": PARIS[0]["content"]}]}])
    assert (text_of(stopped), stopped.stop_reason, stopped.stop_sequence) == (
        "The capital of", "stop_sequence", " France")


def test_the_answer_goes_on_from_the_last_message(client: anthropic.Anthropic) -> None:
    begun = [*PARIS, {"role": "assistant", "content": "The capital of France is"}]
    assert text_of(client.messages.create(model=MODEL, messages=begun, max_tokens=8, **COLD)).strip() == "Paris."


def test_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, messages=PARIS, max_tokens=24, **COLD) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert text_of(final) == ANSWER
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 8
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 20
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert [kind for kind in kinds if kind not in ("text", "content_block_delta")][-3:] == [
        "content_block_stop", "message_delta", "message_stop"]


def test_async(url: str) -> None:
    async def work() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", timeout=120) as client:
            async def one() -> str:
                async with client.messages.stream(model=MODEL, messages=PARIS, max_tokens=24, **COLD) as stream:
                    return "".join([text async for text in stream.text_stream])
            return await asyncio.gather(one(), one())

    assert asyncio.run(work()) == [ANSWER] * 2


def test_count_tokens(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=PARIS)
    made = client.messages.create(model=MODEL, messages=PARIS, max_tokens=1, **COLD)
    usage = made.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    more = client.messages.count_tokens(model=MODEL, messages=PARIS, system="Answer in French, please.")
    assert more.input_tokens != counted.input_tokens


def test_errors_are_anthropic_s(client: anthropic.Anthropic, url: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nothing", messages=PARIS, max_tokens=8)
    assert missing.value.body == {"type": "error", "error": {
        "type": "not_found_error", "param": "model", "code": "model_not_found",
        "message": missing.value.body["error"]["message"]}}  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
        client.messages.create(model=MODEL, messages=[{"role": "user", "content": "x " * 3000}], max_tokens=8)
    refused = httpx.post(f"{url}/v1/messages", json={}, headers={"x-api-key": "dk_0123456789ab_" + "x" * 43})
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"
