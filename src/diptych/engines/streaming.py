"""The answer of `/run`: a stream of events, one JSON object per line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from diptych.core.events import Event, Failed, Finished
from diptych.core.logs import bound
from diptych.core.protocol import RunRequest
from diptych.engines.base import Engine
from diptych.engines.mailbox import Mailbox

CANCEL_SECONDS = 30.0
"""How long an engine may take to end a run that is over its time before the client is told anyway."""

log = logging.getLogger("diptych.runner")


class EventStream(Response):
    """The answer of `/run`. Cancels the run when its client goes, and when it is over its time."""

    media_type = "application/x-ndjson"

    def __init__(
        self, engine: Engine, run: RunRequest, mailbox: Mailbox, done: Callable[[], object],
        fields: dict[str, str | None],
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._engine, self._run, self._mailbox, self._done, self._fields = engine, run, mailbox, done, fields
        self._timed_out = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with bound(**self._fields):
            began = time.monotonic()
            log.info("run begins")
            await self._answer(receive, send)
            log.info("run ended after %.2f s", time.monotonic() - began)

    async def _answer(self, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send(send))
        watchers = [asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(self._watch_time())]
        finished = False
        try:
            await asyncio.wait([sender, watchers[0]], return_when=asyncio.FIRST_COMPLETED)
            finished = sender.done() and not sender.cancelled() and sender.exception() is None
        finally:
            for task in (sender, *watchers):
                task.cancel()
            if not finished:
                await asyncio.shield(asyncio.to_thread(self._engine.cancel, self._run.id))
            self._mailbox.close()
            self._done()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        ended = False
        while not ended:
            events = [self._final(event) for event in await self._mailbox.take()]
            ended = isinstance(events[-1], (Finished, Failed))
            body = b"".join(event.model_dump_json().encode() + b"\n" for event in events)
            await send({"type": "http.response.body", "body": body, "more_body": not ended})

    async def _watch_time(self) -> None:
        if self._run.timeout_seconds is None:
            return
        await asyncio.sleep(self._run.timeout_seconds)
        self._timed_out = True
        await asyncio.to_thread(self._engine.cancel, self._run.id)
        await asyncio.sleep(CANCEL_SECONDS)
        self._mailbox.put(self._timeout())

    def _final(self, event: Event) -> Event:
        if self._timed_out and isinstance(event, Finished) and event.reason == "cancelled":
            return self._timeout()
        return event

    def _timeout(self) -> Failed:
        return Failed(
            message=f"not done within its time of {self._run.timeout_seconds:g} s", status=504, code="timeout")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
