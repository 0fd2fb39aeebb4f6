"""Chat and completions with OpenAI's own client, on the real starter model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

PARIS = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
        yield client


def user(text: Any) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(client: openai.OpenAI, content: Any = PARIS, **more: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "starter-text", "messages": user(content), "temperature": 0, "max_tokens": 24, **more})


def test_chat(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.model == "starter-text"
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert answer.usage.prompt_tokens > 20
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_content_as_parts_and_a_developer(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": PARIS[:20]}, {"type": "text", "text": PARIS[20:]}]
    assert ask(client, parts).choices[0].message.content == ANSWER
    told = {role: ask(client, messages=[{"role": role, "content": "Answer in French."}, *user(PARIS)])
            for role in ("system", "developer")}
    assert told["system"].choices[0].message.content == told["developer"].choices[0].message.content != ANSWER


def test_chat_streamed(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert sum(map(bool, pieces)) >= 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert not [chunk for chunk in ask(client, stream=True) if chunk.usage]


def test_bytes_of_a_stream(http: httpx.Client) -> None:
    body = {"model": "starter-text", "messages": user(PARIS), "temperature": 0, "max_tokens": 4, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"


def test_stop_and_length(client: openai.OpenAI) -> None:
    stopped = ask(client, stop=[" France"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of", "stop")
    assert ask(client, stop="Paris").choices[0].message.content == "The capital of France is "
    short = ask(client, max_tokens=openai.omit, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


def test_seed_and_neutral_values(client: openai.OpenAI) -> None:
    """The same seed, the same answer; fields of other servers at values that change nothing are no fault."""
    more = {"temperature": 1.0, "seed": 7, "n": 1, "tools": [], "tool_choice": "none", "user": "me",
            "response_format": {"type": "text"}, "logprobs": False, "metadata": {"a": "b"}, "store": False,
            "parallel_tool_calls": True, "extra_body": {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}}
    texts = {ask(client, "Tell me something.", **more).choices[0].message.content for _ in range(2)}
    assert len(texts) == 1


def test_completions(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(model="starter-text", prompt=prompt, temperature=0, max_tokens=3)
    assert answer.object == "text_completion"
    assert "Paris" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    chunks = list(client.completions.create(
        model="starter-text", prompt=[prompt], temperature=0, max_tokens=3, stream=True,
        stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens
    default = client.completions.create(model="starter-text", prompt="Once upon a time", temperature=0)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16


def test_many_at_once(server: Any) -> None:
    """More than there are slots: all get the same answer, none is lost."""

    async def work() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            async def one() -> str | None:
                answer = await client.chat.completions.create(
                    model="starter-text", messages=user(PARIS), temperature=0, max_tokens=24)
                return answer.choices[0].message.content
            return await asyncio.gather(*(one() for _ in range(6)))

    assert asyncio.run(work()) == [ANSWER] * 6


def test_models(client: openai.OpenAI) -> None:
    assert {"tiny", "starter-text"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").created > 0
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.models.retrieve("nothing")


def test_errors_are_openai_s(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="nothing")
    assert missing.value.code == "model_not_found"
    assert "starter-text" in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="pictures"):
        ask(client, model="tiny")
    for stream in (False, True):  # a fault that only the engine finds has its status in both
        with pytest.raises(openai.BadRequestError) as long:
            ask(client, "word " * 2000, stream=stream)
        assert long.value.code == "context_length_exceeded"
        assert "512" in long.value.message


def running(http: httpx.Client) -> int:
    runners = http.get("/api/system").json()["runners"]
    return sum(runner["running"] for runner in runners if runner["model"] == "starter-text")


STORY = {"model": "starter-text", "messages": user("Tell me a very long story."), "temperature": 0,
         "frequency_penalty": 0.5, "max_tokens": 470}


def test_a_stream_that_is_left_ends_its_run(http: httpx.Client, client: openai.OpenAI, until: Until) -> None:
    stream = client.chat.completions.create(**STORY, stream=True)  # type: ignore[call-overload]
    for _ in range(3):
        next(stream)
    assert running(http) == 1
    stream.close()
    until(lambda: running(http) == 0)


def test_a_whole_answer_that_is_left_ends_its_run(http: httpx.Client, server: Any, until: Until) -> None:
    client = httpx.Client(base_url=server.url, timeout=120)

    def waits() -> None:
        with pytest.raises((httpx.TransportError, RuntimeError)):
            client.post("/v1/chat/completions", json={**STORY, "max_tokens": 470}, timeout=0.5)

    thread = threading.Thread(target=waits)
    thread.start()
    until(lambda: running(http) == 1)
    thread.join()
    client.close()
    until(lambda: running(http) == 0)
