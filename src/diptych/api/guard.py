"""Which requests are answered at all. Plain ASGI, so that streams are not wrapped."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from diptych.api.errors import error_response, shown
from diptych.core.errors import Forbidden

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


class Guard:
    """Refuses what a foreign web page could make a browser send to a server without keys.

    A page whose own name was pointed at 127.0.0.1 shows itself by its `Host`, one that opens a WebSocket by its
    `Origin`. (JSON bodies need no check: a page may not send them to another origin without asking.)

    Args:
        host: the name or address that the server was told to listen on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._own = app, host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            refusal = self._refusal(scope)
            if refusal is not None:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:100]})
                    return
                await error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Forbidden | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self._served(host):
            return Forbidden(
                f"Host is {shown(host)}; this server answers to localhost and the addresses of this machine only",
                param="Host", code="host_not_served")
        if origin is not None and origin.partition("://")[2].lower() != host.lower() and scope["type"] == "websocket":
            return Forbidden(f"Origin {shown(origin)} may not open a WebSocket here", param="Origin")
        return None

    def _served(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].strip("[]").lower().rstrip(".")
        return name in ("localhost", self._own) or name.endswith(".localhost") or is_loopback(name) \
            or (not is_loopback(self._own) and _is_address(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
