"""What the routes work with. Built once by the composition root, reached through the request: no global state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.requests import HTTPConnection

from diptych.api.native.pulls import Pulls
from diptych.api.observe.observer import Observer
from diptych.core.errors import InvalidRequest
from diptych.library import Library
from diptych.schedule.dispatcher import Dispatcher
from diptych.settings import Settings
from diptych.store.jobs import JobStore

CALLER_HEADER = "X-Diptych-Caller"
DEFAULT_CALLER = "local"
_CALLER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,98}[\x21-\x7e])?")


@dataclass(frozen=True)
class Services:
    settings: Settings
    store: JobStore
    library: Library
    dispatcher: Dispatcher
    pulls: Pulls
    observer: Observer


def services_of(connection: HTTPConnection) -> Services:
    found: Any = connection.app.state.services
    assert isinstance(found, Services)
    return found


def caller_of(
    caller: Annotated[
        str, Header(alias=CALLER_HEADER, description="who asks; callers of one class of work take turns")
    ] = DEFAULT_CALLER,
) -> str:
    """Who asks, for the turns in the queue. Raises InvalidRequest when the name is over 100 characters or not ASCII."""
    if not _CALLER.fullmatch(caller):
        raise InvalidRequest(
            f"{CALLER_HEADER} must have 1 to 100 printable ASCII characters, without spaces at its ends",
            param=CALLER_HEADER)
    return caller


Having = Annotated[Services, Depends(services_of)]
Caller = Annotated[str, Depends(caller_of)]
