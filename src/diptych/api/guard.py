"""Which requests are answered at all. Plain ASGI, so that streams are not wrapped."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from diptych.api.errors import error_response, shown
from diptych.core.errors import Forbidden
from diptych.settings import Settings

_READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing; what they answer is kept from other origins' pages by CORS."""
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


class Guard:
    """Refuses what a foreign web page could make a browser send to a server without keys.

    A page whose own name was pointed at 127.0.0.1 (DNS rebinding) shows itself by its `Host`, one that sends a form or
    opens a WebSocket by its `Origin`, which a browser always tells with those.

    Other origins' pages may read nothing (CORS), and nothing that they send is carried out, unless their origin is
    one of `settings.cors_origins`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._own = app, settings.host.lower()
        self._names = tuple(name.lower().rstrip(".") for name in settings.allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)

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
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if len(hosts) != 1 or not self._served(hosts[0]):
            return Forbidden(
                f"Host is {shown(', '.join(hosts))}; this server answers to localhost, its own address and the names "
                "in the setting allowed_hosts only", param="Host", code="host_not_served")
        if scope["type"] == "http" and scope["method"] in _READING:
            return None
        for origin in origins:
            if not self._trusted(origin, hosts[0]):
                return Forbidden(
                    f"Origin is {shown(origin)}; a page of another origin may send nothing here, unless the setting "
                    "cors_origins names it", param="Origin", code="origin_not_allowed")
        return None

    def _trusted(self, origin: str, host: str) -> bool:
        origin, (scheme, separator, place) = origin.lower(), origin.lower().partition("://")
        same = separator == "://" and scheme in ("http", "https") and place == host.lower()
        return same or origin in self._origins or "*" in self._origins

    def _served(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].strip("[]").lower().rstrip(".")
        if parts["port"] is not None and int(parts["port"]) > 65535:
            return False
        return name in ("localhost", self._own) or name.endswith(".localhost") or is_loopback(name) \
            or any(_fits(name, pattern) for pattern in self._names) \
            or (not is_loopback(self._own) and _is_address(name))


def _fits(name: str, pattern: str) -> bool:
    """`*.example.org` holds for every name below example.org, anything else for itself."""
    return name.endswith(pattern[1:]) and len(name) >= len(pattern) if pattern.startswith("*.") else name == pattern


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
