"""Around every request: its id, its line in the access log, its counts, and the refusal of new work at the end."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.api.errors import error_response, shown
from diptych.api.observe.lifecycle import Lifecycle
from diptych.api.observe.metrics import Metrics
from diptych.core.errors import DiptychError, Unavailable
from diptych.core.logs import bound

REQUEST_ID = b"x-request-id"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Asked again and again by machines: their lines are for "debug"."""
STILL_SERVED = re.compile(r"/(cancel|unload|delete)$")
"""Ends of paths whose POST makes no new work."""
GONE = 499
"""Status, in the log and the metrics, of a request whose client left before the answer began."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")

access = logging.getLogger("diptych.access")
log = logging.getLogger("diptych.server")


class Observed:
    """Plain ASGI, outside of everything else, so that streams are not wrapped and no request is missed."""

    def __init__(self, app: ASGIApp, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app, self._metrics, self._lifecycle = app, metrics, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        with bound(request_id=request.id):
            self._metrics.http_open.inc()
            try:
                await self._answer(scope, receive, request)
            finally:
                self._metrics.http_open.dec()
                self._note(scope, request)

    async def _answer(self, scope: Scope, receive: Receive, request: _Request) -> None:
        if self._lifecycle.draining and _is_new_work(scope):
            refusal = Unavailable("the server ends; try again when it is back", code="server_ending")
            headers = {"retry-after": str(self._lifecycle.retry_after), "x-should-retry": "true"}
            await error_response(refusal, headers)(scope, receive, request.send)
            return
        try:
            await self._app(scope, receive, request.send)
        except Exception:
            if request.status is not None or scope["type"] == "websocket":
                raise
            log.exception("a fault in the server itself")
            fault = DiptychError("a fault in the server itself; its log says more", code="internal_error")
            await error_response(fault)(scope, receive, request.send)

    def _note(self, scope: Scope, request: _Request) -> None:
        seconds = time.perf_counter() - request.began
        method = "WS" if scope["type"] == "websocket" else scope["method"]
        method = method if method in METHODS or method == "WS" else "OTHER"
        status, route = request.status or GONE, route_of(scope)
        self._metrics.http_requests.labels(method, route, str(status)).inc()
        self._metrics.http_seconds.labels(method, route).observe(seconds)
        level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
        if access.isEnabledFor(level):
            path = shown(scope["path"])[1:-1]
            access.log(level, "%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra={"fields": {
                "method": method, "path": path, "route": route, "status": status, "seconds": round(seconds, 6)}})


class _Request:
    """One request as it is answered; `status` is None until the answer has begun."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.id = request_id(scope)
        self.status: int | None = None
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self.status = message.get("status", 101)
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != REQUEST_ID]
            message = {**message, "headers": [*headers, (REQUEST_ID, self.id.encode("ascii"))]}
        elif message["type"] == "websocket.close" and self.status is None:
            self.status = 403
        await self._send(message)


def request_id(scope: Scope) -> str:
    """The client's own `X-Request-ID` where it has 1 to 100 harmless characters, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID:
            given = value.decode("latin-1")
            if _ID.fullmatch(given):
                return str(given)
    return secrets.token_hex(8)


def route_of(scope: Scope) -> str:
    """The template of the route that answered, such as `/api/jobs/{id}`; one word for all that have none."""
    route: Any = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    if path is None and scope.get("endpoint") is not None and not scope.get("path_params"):
        path = scope["path"]  # a fixed page, such as that of the description
    return str(path) if path else "unmatched"


def _is_new_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH") and \
        STILL_SERVED.search(scope["path"]) is None
