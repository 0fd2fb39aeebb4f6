"""Mistral's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

MODEL = "starter-text"
ANSWER = "The capital of France is Paris."
PARIS: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
COLD: Any = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_tokens": 24}


@pytest.fixture
def client(url: str) -> Iterator[Mistral]:
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        yield client


def test_complete(client: Mistral) -> None:
    made = client.chat.complete(**COLD, random_seed=3)
    assert made.choices[0].message is not None
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (ANSWER, "stop")
    assert made.usage.completion_tokens == 8
    safe = client.chat.complete(**COLD, safe_prompt=True)
    assert safe.usage.prompt_tokens != made.usage.prompt_tokens
    assert len(client.chat.complete(**COLD, n=2).choices) == 2


def test_prefix(client: Mistral) -> None:
    begun = [*PARIS, {"role": "assistant", "content": "The capital of France is", "prefix": True}]
    made = client.chat.complete(**{**COLD, "messages": begun, "max_tokens": 6})
    assert made.choices[0].message is not None
    assert "Paris" in str(made.choices[0].message.content)


def test_stream(client: Mistral) -> None:
    pieces, reasons = [], []
    for event in client.chat.stream(**COLD):
        choice = event.data.choices[0]
        pieces.append(choice.delta.content or "")
        reasons.append(choice.finish_reason)
    assert "".join(map(str, pieces)) == ANSWER
    assert reasons[-1] == "stop"
    assert sum(map(bool, pieces)) >= 5


def test_async(url: str) -> None:
    async def work() -> Any:
        async with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
            return await client.chat.complete_async(**COLD)

    assert asyncio.run(work()).choices[0].message.content == ANSWER


def test_errors(client: Mistral) -> None:
    with pytest.raises(SDKError) as missing:
        client.chat.complete(**{**COLD, "model": "nothing"})
    assert missing.value.raw_response.status_code == 404
