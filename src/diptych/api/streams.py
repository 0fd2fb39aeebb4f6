"""Answers that last: server-sent events, and work that ends when its client goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
ALIVE_SECONDS = 15.0
"""A comment is sent after so long a silence, so that nothing between takes the connection for dead."""
DONE = "data: [DONE]\n\n"


def sse(data: Any, event: str | None = None) -> str:
    """One server-sent event with `data` as JSON."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """Sends text as it comes; closes its source when all is sent and when the client goes, whichever is first."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[str, None], status_code: int = 200) -> None:
        super().__init__(status_code=status_code, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(send))
        except ClientDisconnect:
            pass
        finally:
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        alive = _Alive(send)
        try:
            async for text in self._source:
                await alive.send(text)
        finally:
            await _ended(alive.task)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Alive:
    """Sends texts, and a comment whenever there was none for `ALIVE_SECONDS`."""

    def __init__(self, send: Send) -> None:
        self._send, self._lock, self._last = send, asyncio.Lock(), time.monotonic()
        self.task = asyncio.ensure_future(self._comment())

    async def send(self, text: str) -> None:
        async with self._lock:
            self._last = time.monotonic()
            await self._send({"type": "http.response.body", "body": text.encode(errors="replace"), "more_body": True})

    async def _comment(self) -> None:
        while True:
            silent = time.monotonic() - self._last
            if silent >= ALIVE_SECONDS:
                await self.send(": waiting\n\n")
            else:
                await asyncio.sleep(ALIVE_SECONDS - silent)


async def attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, for which the client waits. The body must have been read.

    Raises:
        ClientDisconnect: the client has gone, and `work` has been cancelled.
    """
    return await until_gone(request.receive, work)


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    gone = asyncio.ensure_future(_disconnected(receive))
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([gone, task], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _ended(gone)
        await _ended(task)


async def _ended(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen: no warning that nobody asked for it


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
