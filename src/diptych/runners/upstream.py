"""Models on servers that are not ours: any that speaks OpenAI's API, answered through as if they ran here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx

from diptych.core.cards import Card
from diptych.core.chat import TokenProbability
from diptych.core.errors import Unavailable
from diptych.core.events import (
    Data,
    Event,
    Failed,
    Finished,
    Metrics,
    ReasoningDelta,
    TokenDelta,
    ToolCallDelta,
)
from diptych.core.specs import EmbedSpec, LiveSpec
from diptych.runners.upstream_body import request_of
from diptych.runners.upstream_faults import broken, failed, refusal
from diptych.runners.vllm import VllmServer
from diptych.settings import Settings, Upstream

REASONS = {"stop", "length", "tool_calls", "content_filter", "repetition"}
WRITE_SECONDS = 60.0


class Upstreams:
    """All servers of `settings.upstreams`. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._servers = {name: UpstreamServer(name, upstream, settings)
                         for name, upstream in settings.upstreams.items()}

    async def answer(self, card: Card, spec: LiveSpec, stop: asyncio.Event | None) -> AsyncGenerator[Event, None]:
        """The events of one answer; the last is `Finished` or `Failed`. Closing it ends the request there.

        Raises:
            InvalidRequest: the spec asks for what such a server cannot do.
            Unavailable: vLLM was to be started, and is not installed or did not start.
        """
        server = self._servers[card.path]
        async with contextlib.aclosing(server.answer(card, spec, stop)) as events:
            async for event in events:
                yield event

    async def stop(self) -> None:
        """End what was started here and close all connections."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))


class UpstreamServer:
    """One server, and the connections to it."""

    def __init__(self, name: str, upstream: Upstream, settings: Settings) -> None:
        self._name, self._upstream = name, upstream
        self._vllm = VllmServer(name, upstream, settings) if upstream.vllm else None
        self._http: httpx.AsyncClient | None = None

    async def answer(self, card: Card, spec: LiveSpec, stop: asyncio.Event | None) -> AsyncGenerator[Event, None]:
        """See `Upstreams.answer`."""
        path, body = request_of(spec, card.name, self._upstream.fields)
        url, key = await self._address()
        events = self._vectors(url, key, body, spec) if isinstance(spec, EmbedSpec) else self._stream(
            url, key, path, body, stop)
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        except httpx.TimeoutException:
            yield self._failed(f"did not answer in time ({self._upstream.connect_seconds:g} s to connect, "
                               f"{self._upstream.first_token_seconds:g} s to the first token)", 504, "upstream_timeout",
                               retryable=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            yield self._failed(f"cannot be reached ({type(error).__name__})", 503, "upstream_unreachable",
                               retryable=True)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            yield self._failed("answered with something that is not OpenAI's protocol", 502, "upstream_protocol")

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        if self._vllm is not None:
            await self._vllm.stop()

    async def _address(self) -> tuple[str, str | None]:
        if self._vllm is not None:
            return await self._vllm.address()
        variable = self._upstream.api_key_env
        if variable is not None and not os.environ.get(variable):
            raise Unavailable(f"upstream {self._name!r} needs an API key: the environment variable {variable} is not "
                              "set", code="upstream_key")
        return str(self._upstream.url).rstrip("/"), os.environ.get(variable) if variable else None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # A redirect would carry the key elsewhere. The number of connections is the gateway's affair.
            self._http = httpx.AsyncClient(
                follow_redirects=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
                timeout=httpx.Timeout(self._upstream.first_token_seconds, connect=self._upstream.connect_seconds,
                                      write=WRITE_SECONDS))
        return self._http

    async def _vectors(
        self, url: str, key: str | None, body: dict[str, Any], spec: EmbedSpec,
    ) -> AsyncGenerator[Event, None]:
        response = await self._client.post(f"{url}/embeddings", json=body, headers=_headers(key))
        if response.status_code != 200:
            yield refusal(self._name, response.status_code, response.content, key)
            return
        found = response.json()
        vectors = [item["embedding"] for item in sorted(found["data"], key=lambda item: int(item["index"]))]
        if len(vectors) != len(spec.inputs):
            raise ValueError("another number of vectors")
        tokens = int((found.get("usage") or {}).get("prompt_tokens") or 0)
        yield Data(value={"vectors": [_unit(vector) for vector in vectors] if spec.normalize else vectors,
                          "tokens": tokens})
        yield Metrics(values={"prompt_tokens": float(tokens)})
        yield Finished()

    async def _stream(
        self, url: str, key: str | None, path: str, body: dict[str, Any], stop: asyncio.Event | None,
    ) -> AsyncGenerator[Event, None]:
        reading = _Reading()
        stream = self._client.stream("POST", f"{url}/{path}", json=body, headers=_headers(key))
        # The first token has its own time; httpx alone would begin to count again with every comment line.
        deadline = time.monotonic() + self._upstream.first_token_seconds + self._upstream.connect_seconds
        async with stream as response:
            if response.status_code != 200:
                yield refusal(self._name, response.status_code, await response.aread(), key)
                return
            async with contextlib.aclosing(_data(response)) as chunks:
                async for chunk in chunks:
                    if not reading.begun and time.monotonic() > deadline:
                        raise httpx.ReadTimeout("no token in time")
                    if chunk is None:
                        continue
                    if "error" in chunk:
                        yield broken(self._name, chunk, key)
                        return
                    for event in reading.events(chunk):
                        yield event
                    if stop is not None and stop.is_set():
                        reading.reason = "cancelled"
                        break
        if reading.reason is None:
            yield self._failed("ended its answer too early", 502, "upstream_broken", retryable=not reading.begun)
            return
        yield reading.metrics()
        yield Finished(reason=reading.reason)

    def _failed(self, words: str, status: int, code: str, *, retryable: bool = False) -> Failed:
        return failed(self._name, words, status, code, retry=retryable)


class _Reading:
    """What has come of one stream."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.begun = False
        self._usage: dict[str, Any] = {}
        self._deltas = 0
        self._started = time.monotonic()
        self._first: float | None = None

    def events(self, chunk: dict[str, Any]) -> list[Event]:
        self._usage = chunk.get("usage") or self._usage
        found: list[Event] = []
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = delta.get("content") or choice.get("text") or ""
            if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
                found.append(ReasoningDelta(text=str(reasoning)))
            logprobs = _probabilities(choice.get("logprobs"))
            if text or logprobs:
                found.append(TokenDelta(text=str(text), logprobs=logprobs))
            found += [_call(call) for call in delta.get("tool_calls") or ()]
            if reason := choice.get("finish_reason"):
                self.reason = reason if reason in REASONS else "stop"
        if found:
            self.begun = True
            self._deltas += len(found)
            self._first = self._first or time.monotonic()
        return found

    def metrics(self) -> Metrics:
        """Counts as the other server tells them; where it tells none, the pieces that came stand for tokens."""
        now, usage = time.monotonic(), self._usage
        values = {"prompt_tokens": float(usage.get("prompt_tokens") or 0),
                  "completion_tokens": float(usage.get("completion_tokens") or self._deltas),
                  "seconds": now - self._started}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached:
            values["cached_tokens"] = float(cached)
        if self._first is not None:
            values["first_token_seconds"] = self._first - self._started
        return Metrics(values=values)


async def _data(response: httpx.Response) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The JSON objects of an event stream; None for a line that holds none, so that time is looked at."""
    lines: AsyncIterator[str] = response.aiter_lines()
    async for line in lines:
        kind, _, data = line.partition(":")
        if kind != "data":
            yield None
            continue
        if data.strip() == "[DONE]":
            return
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("a chunk that is no object")
        yield found


def _call(call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(index=int(call.get("index") or 0), id=call.get("id"), name=function.get("name"),
                         arguments=function.get("arguments") or "")


def _probabilities(found: dict[str, Any] | None) -> tuple[TokenProbability, ...]:
    """Of chat (`content`) or of completions (`tokens`, `token_logprobs`)."""
    if not found:
        return ()
    if "content" in found:
        return tuple(_probability(item, tuple(_probability(other) for other in item.get("top_logprobs") or ()))
                     for item in found["content"] or ())
    tops = found.get("top_logprobs") or [None] * len(found.get("tokens") or ())
    return tuple(
        TokenProbability(token=token, logprob=logprob, top=tuple(
            TokenProbability(token=other, logprob=value) for other, value in (top or {}).items()))
        for token, logprob, top in zip(found.get("tokens") or (), found.get("token_logprobs") or (), tops, strict=True))


def _probability(item: dict[str, Any], top: tuple[TokenProbability, ...] = ()) -> TokenProbability:
    return TokenProbability(token=item["token"], logprob=item["logprob"],
                            bytes=None if item.get("bytes") is None else tuple(item["bytes"]), top=top)


def _unit(vector: list[float]) -> list[float]:
    length = sum(value * value for value in vector) ** 0.5 or 1.0
    return [value / length for value in vector]


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}

