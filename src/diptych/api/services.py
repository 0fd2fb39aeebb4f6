"""What the routes work with. Built once by the composition root, reached through the request: no global state."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.requests import HTTPConnection

from diptych.api.auth import KeyRing, Principal, principal_of_scope
from diptych.api.links import Links
from diptych.api.native.pulls import Pulls
from diptych.api.observe.observer import Observer
from diptych.api.tasks.baselines import Baselines
from diptych.core.errors import Forbidden, InvalidRequest
from diptych.library import Library
from diptych.routing.router import Router
from diptych.schedule.dispatcher import Dispatcher
from diptych.settings import Settings
from diptych.store.inputs import InputStore
from diptych.store.jobs import JobStore
from diptych.text.moderate_pictures import PictureJudge
from diptych.text.registry import Registry

CALLER_HEADER = "X-Diptych-Caller"
_CALLER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,98}[\x21-\x7e])?")


@dataclass(frozen=True)
class Services:
    settings: Settings
    store: JobStore
    library: Library
    dispatcher: Dispatcher
    pulls: Pulls
    observer: Observer
    keys: KeyRing
    links: Links
    tools: Registry
    router: Router
    inputs: InputStore
    baselines: Baselines = field(default_factory=Baselines)
    judged: Baselines = field(default_factory=Baselines)
    pictures: PictureJudge = field(default_factory=PictureJudge)


def services_of(connection: HTTPConnection) -> Services:
    found: Any = connection.app.state.services
    assert isinstance(found, Services)
    return found


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks, as `Auth` found out."""
    return principal_of_scope(connection.scope)


async def _services(connection: HTTPConnection) -> Services:
    return services_of(connection)


async def _principal(connection: HTTPConnection) -> Principal:
    return principal_of(connection)


async def caller_of(
    connection: HTTPConnection,
    caller: Annotated[str | None, Header(
        alias=CALLER_HEADER, description="who asks; callers of one class of work take turns. With an API key the "
        "caller is the key, and only the scope admin may name another one")] = None,
) -> str:
    """Who asks, for the turns in the queue. Raises InvalidRequest when the name is over 100 characters or not ASCII,
    Forbidden when it is another one than that of the key."""
    principal = principal_of(connection)
    if caller is None:
        return principal.caller
    if not _CALLER.fullmatch(caller):
        raise InvalidRequest(
            f"{CALLER_HEADER} must have 1 to 100 printable ASCII characters, without spaces at its ends",
            param=CALLER_HEADER)
    if not principal.sees(caller):
        raise Forbidden(
            f"{CALLER_HEADER} is {caller!r}, but the caller of this API key is {principal.caller!r}; leave it out",
            param=CALLER_HEADER)
    return caller


# Coroutines: FastAPI sends plain functions to a worker thread, each of them and with every request.
Having = Annotated[Services, Depends(_services)]
Caller = Annotated[str, Depends(caller_of)]
Who = Annotated[Principal, Depends(_principal)]
