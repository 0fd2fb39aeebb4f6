"""Who asks, and what they may ask for. Plain ASGI, in front of every route: one that is added later is kept too."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.api.errors import error_response
from diptych.api.links import Links
from diptych.api.policy import needed_scope
from diptych.core.errors import DiptychError, Forbidden, Unauthorized
from diptych.core.keys import LOCAL, ApiKey, key_id, matches
from diptych.store.keys import KeyStore

FRESH_SECONDS = 2.0
"""The keys are read from the database again after this time: so soon a change is in force."""
SOONEST_SECONDS = 0.2
"""A key that is not known has them read again, but not more often than this."""
PRINCIPAL = "diptych.principal"

log = logging.getLogger("diptych.keys")


@dataclass(frozen=True)
class Principal:
    """Who asks. `key` is None for the owner of this machine; `all_jobs`: sees the jobs of everybody."""

    caller: str
    all_jobs: bool
    key: ApiKey | None = None

    def sees(self, caller: str) -> bool:
        """Whether the jobs of `caller` may be looked at and cancelled."""
        return self.all_jobs or caller == self.caller


OWNER = Principal(LOCAL, all_jobs=True)
BY_LINK = Principal("", all_jobs=True)
"""Whoever holds a signed link; it is let through to that one file."""


class KeyRing:
    """The keys as this server knows them. Belongs to one event loop.

    Args:
        required: whether requests need a key; None: as soon as there is or was one.
        owner: a text that stands for the owner of this machine, known to those who can read the data folder.
    """

    def __init__(self, store: KeyStore, *, required: bool | None, owner: str | None) -> None:
        self._store, self._required, self._owner = store, required, owner
        self._by_id: dict[str, ApiKey] = {}
        self._by_name: dict[str, ApiKey] = {}
        self._read_at = -float("inf")
        self._reading: asyncio.Lock | None = None

    @property
    def required(self) -> bool:
        """Whether requests need a key now. Revoked keys count: taking away the last one must not let everybody in."""
        return bool(self._by_id) if self._required is None else self._required

    def of_caller(self, caller: str) -> ApiKey | None:
        """The key whose name is the caller's."""
        return self._by_name.get(caller)

    def weight_of(self, others: Mapping[str, float]) -> Callable[[str], float]:
        """Turns that a caller gets for each turn of a caller of weight 1: its key's, or what `others` says."""

        def weight(caller: str) -> float:
            key = self.of_caller(caller)
            return others.get(caller, 1.0) if key is None else float(key.weight)

        return weight

    async def who(self, text: str | None) -> Principal:
        """Raises Unauthorized when a key is needed and `text` is none that is valid; it is never repeated."""
        await self.refresh(FRESH_SECONDS)
        if text is not None and self._owner is not None and hmac.compare_digest(
                text.encode("utf-8", "surrogatepass"), self._owner.encode()):
            return OWNER
        key = self._match(text)
        if key is None and text is not None and key_id(text) is not None:
            await self._read(time.monotonic())  # it may be a new one
            key = self._match(text)
        if key is not None:
            return self._admit(key)
        if self.required or (text is not None and key_id(text) is not None):
            raise Unauthorized(_REFUSALS[text is None])
        return OWNER

    async def refresh(self, age: float) -> None:
        """Read the keys again when what is known is older than `age` seconds. Only one request waits for that, the
        others go on with what is known."""
        if time.monotonic() - self._read_at >= age and not (self._lock().locked() and self._read_at > 0):
            await self._read(time.monotonic() - age)

    async def _read(self, since: float) -> None:
        """Until the keys are known as they were at `since` or later (`time.monotonic`)."""
        async with self._lock():
            if self._read_at >= since:
                return
            await asyncio.sleep(max(0.0, self._read_at + SOONEST_SECONDS - time.monotonic()))
            begin = time.monotonic()
            try:
                keys = await asyncio.to_thread(self._store.list)
            except DiptychError as error:
                if self._read_at <= 0:
                    raise
                # What was known goes on to hold: nobody can have changed it in a database that does not answer.
                log.error("the keys could not be read again: %s", error.message)
            else:
                self._by_id = {key.id: key for key in keys}
                self._by_name = {key.name: key for key in keys}
            self._read_at = begin

    def _lock(self) -> asyncio.Lock:
        self._reading = self._reading or asyncio.Lock()
        return self._reading

    def _match(self, text: str | None) -> ApiKey | None:
        key = self._by_id.get(key_id(text) or "") if text is not None else None
        return key if key is not None and text is not None and matches(text, key) else None

    def _admit(self, key: ApiKey) -> Principal:
        state = key.state(datetime.now(timezone.utc))
        if state != "valid":
            raise Unauthorized(f"the API key {key.name!r} is {state}", code=f"{state}_api_key")
        return Principal(key.name, all_jobs=key.allows("admin"), key=key)


_REFUSALS = {
    True: "this server needs an API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY` "
          "(diptych key create NAME makes one)",
    False: "the API key that was sent is not known here (diptych key list shows those that are)",
}


class Auth:
    """Lets a request through with its `Principal` in the scope, or refuses it.

    Args:
        parts: the ring, the links, and what tells a key's limits in headers; built later than the application.
    """

    def __init__(self, app: ASGIApp, parts: Callable[[Scope], Gate]) -> None:
        self._app, self._parts = app, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        gate = self._parts(scope)
        try:
            principal = await _principal(scope, gate)
        except DiptychError as error:
            await _refuse(error, scope, receive, send)
            return
        scope[PRINCIPAL] = principal
        key = principal.key

        async def told(message: Message) -> None:
            if key is not None and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in gate.limits(key).items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, told)


@dataclass(frozen=True)
class Gate:
    """What `Auth` asks."""

    keys: KeyRing
    links: Links
    limits: Callable[[ApiKey], Mapping[str, str]]


async def _principal(scope: Scope, gate: Gate) -> Principal:
    method = scope.get("method", "GET")
    needed = needed_scope(method, scope["path"])
    if needed is None:
        return OWNER
    if method == "GET" and gate.links.valid(scope["path"], scope.get("query_string", b"")):
        return BY_LINK
    principal = await gate.keys.who(key_text(dict(scope["headers"])))
    if needed and principal.key is not None and not principal.key.allows(needed):
        raise Forbidden(
            f"the API key {principal.key.name!r} lacks the scope {needed!r}, which {method} "
            f"{ascii(scope['path'])[1:-1][:200]} needs", code="missing_scope")
    return principal


def key_text(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `Authorization: Bearer`, in `x-api-key`, or as the password of `Authorization: Basic`."""
    scheme, _, rest = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    given = headers.get(b"x-api-key")
    return None if given is None else given.decode("latin-1").strip()


async def _refuse(error: DiptychError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
        return
    await error_response(error)(scope, receive, send)


def principal_of_scope(scope: Mapping[str, Any]) -> Principal:
    found = scope[PRINCIPAL]
    assert isinstance(found, Principal)
    return found
