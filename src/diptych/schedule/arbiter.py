"""Who may hold memory. A pure function over numbers: no clock, no processes, replayable from recorded cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["resident", "load", "wait", "refuse"]


class Resident(BaseModel):
    """A loaded (or loading) model. `busy` ones are never evicted; `last_used` in seconds of any one clock."""

    model_config = ConfigDict(frozen=True)

    model: str
    bytes: int = Field(ge=0)
    busy: bool = False
    pinned: bool = False
    last_used: float = 0.0


class Request(BaseModel):
    """A model that somebody wants to use, and the bytes it needs."""

    model_config = ConfigDict(frozen=True)

    model: str
    bytes: int = Field(ge=0)


class Plan(BaseModel):
    """What to do: `resident`, nothing; `load`, after ending the runners of `evict`; `wait`, busy models hold the
    memory; `refuse`, it can never fit. `short` is how many bytes are lacking for the last two."""

    model_config = ConfigDict(frozen=True)

    mode: Mode
    evict: tuple[str, ...] = ()
    short: int = 0


def plan(request: Request, residents: Iterable[Resident], budget: int) -> Plan:
    """Make room for `request` within `budget` bytes, ending least recently used models first and no more of them than
    needed."""
    held = list(residents)
    if any(resident.model == request.model for resident in held):
        return Plan(mode="resident")
    pinned = sum(resident.bytes for resident in held if resident.pinned)
    if request.bytes + pinned > budget:
        return Plan(mode="refuse", short=request.bytes + pinned - budget)
    short = request.bytes + sum(resident.bytes for resident in held) - budget
    evict: list[Resident] = []
    for resident in sorted(held, key=lambda r: r.last_used):
        if short - sum(r.bytes for r in evict) <= 0:
            break
        if not resident.busy and not resident.pinned:
            evict.append(resident)
    short -= sum(resident.bytes for resident in evict)
    if short > 0:
        return Plan(mode="wait", short=short)
    # A small one that was taken first may have become needless when a large one followed.
    for resident in sorted(evict, key=lambda r: r.last_used, reverse=True):
        if short + resident.bytes <= 0:
            evict.remove(resident)
            short += resident.bytes
    return Plan(mode="load", evict=tuple(resident.model for resident in evict))
