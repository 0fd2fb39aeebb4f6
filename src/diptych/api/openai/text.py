"""Text answers, whole or streamed, from the dispatcher's events."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.errors import failure
from diptych.api.openai.answers import Kind, chunk, usage, usage_chunk, whole
from diptych.api.services import Services
from diptych.api.streams import DONE, EventStream, attended, sse
from diptych.core.errors import DiptychError, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics, TokenDelta
from diptych.core.specs import ChatSpec, CompletionSpec

_PREFIX = {"chat": "chatcmpl-", "completion": "cmpl-"}


async def answer(
    request: Request, services: Services, spec: ChatSpec | CompletionSpec, caller: str, *, stream: bool,
    with_usage: bool,
) -> Response:
    """The answer to `spec`; the run ends when the client goes.

    Raises:
        DiptychError: what went wrong before the first piece of a streamed answer, or anywhere in a whole one.
    """
    made = _Answer(spec, services.dispatcher.stream(spec, caller=caller))
    if not stream:
        return JSONResponse(await attended(request, made.whole()))
    try:
        first = await attended(request, made.first())
    except BaseException:
        await made.events.aclose()
        raise
    return EventStream(made.chunks(first, with_usage))


class _Answer:
    def __init__(self, spec: ChatSpec | CompletionSpec, events: AsyncGenerator[Event, None]) -> None:
        self.kind: Kind = spec.kind
        self.events = events
        self._head = (self.kind, _PREFIX[self.kind] + secrets.token_hex(12), int(time.time()), spec.model)
        self._metrics: dict[str, float] = {}

    async def whole(self) -> Any:
        parts: list[str] = []
        async with contextlib.aclosing(self.events):
            async for event in self.events:
                if isinstance(event, TokenDelta):
                    parts.append(event.text)
                reason = self._take(event)
                if reason is not None:
                    return whole(*self._head, "".join(parts), reason, usage(self._metrics))
        raise _ended_early()

    async def first(self) -> Event:
        """The first event: by then it is known whether there will be an answer."""
        event = await anext(self.events, None)
        if event is None:
            raise _ended_early()
        if isinstance(event, Failed):
            raise failure(event)
        return event

    async def chunks(self, first: Event, with_usage: bool) -> AsyncGenerator[str, None]:
        """Server-sent events. A failure half-way is an event with an `error`, and no `[DONE]` follows."""
        more = {"usage": None} if with_usage else {}
        try:
            async with contextlib.aclosing(self.events):
                if self.kind == "chat":
                    yield sse({**chunk(*self._head, text="", role=True), **more})
                event: Event | None = first
                while event is not None:
                    if isinstance(event, TokenDelta):
                        yield sse({**chunk(*self._head, text=event.text), **more})
                    reason = self._take(event)
                    if reason is not None:
                        yield sse({**chunk(*self._head, reason=reason), **more})
                        if with_usage:
                            yield sse(usage_chunk(*self._head, usage(self._metrics)))
                        yield DONE
                        return
                    event = await anext(self.events, None)
            raise _ended_early()
        except DiptychError as error:
            yield sse(error.body())

    def _take(self, event: Event) -> str | None:
        """The reason of the end, once it has ended well. Raises DiptychError when it failed."""
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Metrics):
            self._metrics = event.values
        if not isinstance(event, Finished):
            return None
        if event.reason == "cancelled":
            raise Unavailable("the answer was broken off: its model was unloaded, or the server ends")
        return event.reason


def _ended_early() -> DiptychError:
    return Unavailable("the answer ended early")
