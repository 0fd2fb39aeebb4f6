"""Headers that say which model answered, and which were asked before. Plain ASGI, so that every route has them."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.routing.trail import begin_trail

FULL = (429, 503, 504)
"""Statuses of a request that a target may answer which is left alone for now."""


class Trails:
    """Begins a trail for each request, and tells with the answer what it has come to by then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail = begin_trail()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *trail.headers()]
                told_already = any(name.lower() == b"retry-after" for name, _ in headers)
                if trail.retry_after is not None and message["status"] in FULL and not told_already:
                    headers.append((b"retry-after", str(max(1, math.ceil(trail.retry_after))).encode()))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, told)
