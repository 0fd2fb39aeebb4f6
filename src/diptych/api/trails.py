"""Headers that say which model answered, and which were asked before. Plain ASGI, so that every route has them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.routing.trail import begin_trail


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
                message = {**message, "headers": [*message.get("headers", ()), *trail.headers()]}
            await send(message)

        await self._app(scope, receive, told)
