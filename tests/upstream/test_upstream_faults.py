"""Servers that are silent, break off, refuse or talk nonsense: real sockets that answer a few bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from diptych.core.cards import Card
from diptych.core.chat import Message
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics, TokenDelta
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling, ScoreSpec
from diptych.library.upstreams import upstream_cards
from diptych.runners.upstream import UpstreamServer
from diptych.runners.upstream_body import request_of
from diptych.settings import Settings, Upstream

pytestmark = pytest.mark.anyio
SPEC = ChatSpec(messages=(Message(role="user", content="x"),))
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
PIECE = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def events_of(answer: bytes | Handler, tmp_path: Path, stop: asyncio.Event | None = None) -> list[Event]:
    """What is told of a server that answers like this."""
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(reader, writer)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    upstream = Upstream(url=url, models=("m",), connect_seconds=2, first_token_seconds=0.5)
    settings = Settings(data_dir=tmp_path, upstreams={"other": upstream})
    server = UpstreamServer("other", upstream, settings)
    try:
        return [event async for event in server.answer(upstream_cards(settings)["other/m"], SPEC, stop)]
    finally:
        await server.stop()
        listening.close()


def status(code: int, body: bytes = b'{"error":{"message":"because","param":"top_p"}}') -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (code, len(body), body)


async def test_a_whole_answer(tmp_path: Path) -> None:
    events = await events_of(HEAD + PIECE + PIECE + END, tmp_path)
    assert [event.text for event in events if isinstance(event, TokenDelta)] == ["Hi", "Hi"]
    assert isinstance(events[-2], Metrics) and events[-2].values["completion_tokens"] == 2
    assert events[-1] == Finished(reason="stop")


@pytest.mark.parametrize(("answer", "code", "told", "retryable"), [
    (HEAD + PIECE, 502, "too early", False), (HEAD, 502, "too early", True),
    (HEAD + b"data: nonsense\n\n", 502, "not OpenAI", False), (HEAD + b"data: []\n\n", 502, "not OpenAI", False),
    (HEAD + b'data: {"choices": 5}\n\n', 502, "not OpenAI", False),
    (HEAD + b'data: {"error":{"message":"broken"}}\n\n', 503, "broken", True),
    (b"no http at all\r\n\r\n", 503, "cannot be reached", True), (b"", 503, "cannot be reached", True),
    (status(400), 400, "because", False), (status(404), 404, "because", False), (status(429), 429, "because", True),
    (status(401), 502, "API key", False), (status(500), 503, "because", True), (status(500, b"x"), 503, "500", True),
    (status(302), 502, "because", True),
])
async def test_faults(answer: bytes, code: int, told: str, retryable: bool, tmp_path: Path) -> None:
    last = (await events_of(answer, tmp_path))[-1]
    assert isinstance(last, Failed), last
    assert (last.status, last.retryable) == (code, retryable) and told in last.message and "'other'" in last.message


@pytest.mark.parametrize("comments", [False, True])
async def test_silence_has_an_end(comments: bool, tmp_path: Path) -> None:
    """Also where it sends comments all the while, as servers do to keep a connection open."""
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for _ in range(100):
            await asyncio.sleep(0.1)
            if comments and not writer.is_closing():
                writer.write(b": wait\n\n")

    last = (await asyncio.wait_for(events_of(silent, tmp_path), 8))[-1]
    assert isinstance(last, Failed) and (last.status, last.code) == (504, "upstream_timeout")


async def test_a_stop_ends_the_request(tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    events = await events_of(HEAD + PIECE * 50 + END, tmp_path, stop)
    assert sum(isinstance(event, TokenDelta) for event in events) == 1
    assert isinstance(events[-2], Metrics) and events[-1] == Finished(reason="cancelled")


async def test_vllm_that_is_not_there_or_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = Upstream(vllm=str(tmp_path), models=("m",))
    settings = Settings(data_dir=tmp_path, upstreams={"fast": upstream}, runner_start_seconds=20)
    card = upstream_cards(settings)["fast/m"]
    with pytest.raises(Unavailable, match="pip install vllm"):
        await _first(UpstreamServer("fast", upstream, settings), card)
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nraise SystemExit(3)\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))
    with pytest.raises(Unavailable, match="status 3"):
        await _first(UpstreamServer("fast", upstream, settings), card)


async def _first(server: UpstreamServer, card: Card) -> Event:
    return await anext(server.answer(card, SPEC, None))


@pytest.mark.parametrize(("spec", "param"), [
    (SPEC.model_copy(update={"truncation": "auto"}), "truncation"),
    (SPEC.model_copy(update={"template_options": {"a": 1}}), "template_options"),
    (ChatSpec(messages=(Message(role="assistant", content="a", prefix=True),)), "messages"),
    (SPEC.model_copy(update={"sampling": Sampling(dry_multiplier=1.0)}), "dry_multiplier"),
    (ScoreSpec(messages=SPEC.messages, options=("a",)), "model"),
])
def test_what_another_server_cannot_do_is_refused(spec: ChatSpec, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_of(spec, "m", ())
    assert refused.value.param == param and param in refused.value.message


def test_fields_that_are_at_their_defaults_are_not_sent() -> None:
    _, body = request_of(CompletionSpec(prompt="a", sampling=Sampling(top_k=40, seed=3, stop=("x",))), "m", ())
    assert body["seed"] == 3 and body["stop"] == ["x"] and "top_k" not in body
    assert request_of(CompletionSpec(prompt="a", sampling=Sampling(top_k=7)), "m", ("top_k",))[1]["top_k"] == 7


@pytest.mark.parametrize("values", [
    {"models": ["a"]}, {"url": "http://a", "vllm": "b", "models": ["a"]}, {"url": "ftp://a", "models": ["a"]},
    {"url": "http://a", "models": []}, {"vllm": "a", "models": ["a", "b"]}])
def test_settings_that_make_no_sense(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Upstream.model_validate(values)
