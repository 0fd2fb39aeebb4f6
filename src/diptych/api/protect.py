"""Wires everything that keeps a server: in front of the application, and what it asks."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from diptych.api.auth import Auth, Gate, KeyRing
from diptych.api.guard import Guard, is_loopback
from diptych.api.headers import SecurityHeaders
from diptych.api.limits import Limits
from diptych.core.errors import InvalidRequest
from diptych.settings import Settings
from diptych.store.database import Database
from diptych.store.keys import KeyStore

TOLD_HEADERS = ["retry-after", "location", "x-should-retry", "x-diptych-model", "x-diptych-attempts", *(
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("tokens", "pictures"))]


def protect(app: FastAPI, settings: Settings) -> None:
    """Put the checks in front of `app`: headers, where a request comes from, CORS, who asks."""
    app.add_middleware(Auth, parts=_gate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"], expose_headers=TOLD_HEADERS, max_age=600)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(SecurityHeaders, shared=bool(settings.cors_origins))


def _gate(scope: Scope) -> Gate:
    services: Any = scope["app"].state.services
    limits = services.dispatcher.limits
    assert isinstance(limits, Limits)
    return Gate(services.keys, services.links, limits.headers)


def key_ring(settings: Settings, database: Database, owner: str | None) -> KeyRing:
    """The ring of a server that listens where `settings` say. `owner`: a text that stands for this machine's owner."""
    required = True if not is_loopback(settings.host) else settings.require_key
    return KeyRing(KeyStore(database), required=required, owner=owner)


def check_exposure(settings: Settings, database: Database) -> None:
    """Raises InvalidRequest, with what to do, for settings that would let in who must not."""
    if "*" in settings.cors_origins and settings.require_key is not True:
        raise InvalidRequest(
            "cors_origins is '*': any web page could use this server; name the origins, or set require_key to true",
            param="cors_origins")
    if is_loopback(settings.host):
        return
    if settings.require_key is False:
        raise InvalidRequest(
            f"host is {settings.host!r}, which other machines can reach, and require_key is false: listen on "
            "127.0.0.1, or leave require_key out", param="require_key")
    if not KeyStore(database).any_valid():
        raise InvalidRequest(
            f"host is {settings.host!r}, which other machines can reach, but there is no valid API key that could keep "
            "them out: make one with `diptych key create NAME`, or listen on 127.0.0.1", param="host")

