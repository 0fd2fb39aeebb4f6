"""Who may hold memory. A pure function over numbers: no clock, no processes, replayable from recorded traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from diptych.schedule.leases import Lease, Leases, bytes_by_device, largest

Mode = Literal["resident", "grow", "load", "wait", "refuse"]
_ORDER: dict[Mode, int] = {"load": 0, "grow": 0, "wait": 1, "refuse": 2}


class Resident(BaseModel):
    """A model that holds memory: loaded, loading, or `ending` until its process has gone. Busy, pinned and ending ones
    are never evicted. `last_used` in seconds of any one clock; `devices` is where it computes."""

    model_config = ConfigDict(frozen=True)

    model: str
    leases: Leases
    devices: tuple[str, ...] = ("cpu",)
    busy: bool = False
    pinned: bool = False
    ending: bool = False
    last_used: float = 0.0

    @property
    def movable(self) -> bool:
        return not (self.busy or self.pinned or self.ending)


class Placement(BaseModel):
    """One way to hold a model: where it computes, what that takes, and the engine options that go with it. A placement
    of a lower `rank` is preferred even if it has to wait."""

    model_config = ConfigDict(frozen=True)

    devices: tuple[str, ...] = ("cpu",)
    leases: Leases
    rank: int = 0
    options: dict[str, int | str] = {}


class Request(BaseModel):
    """A model that somebody wants to use, and the ways to hold it, best first."""

    model_config = ConfigDict(frozen=True)

    model: str
    placements: tuple[Placement, ...] = Field(min_length=1)


class Plan(BaseModel):
    """What to do.

    `resident`: nothing, it is there. `load`: end the runners of `evict`, and when they have gone, start it as
    `placement` says. `grow`: it is there, but needs the larger leases of `placement`; end those of `evict` first.
    `wait`: what holds the memory is busy or ending. `refuse`: it can never fit beside what is pinned.

    `short` bytes of `device` are lacking for the last two, of which the request needs `need`.
    """

    model_config = ConfigDict(frozen=True)

    mode: Mode
    evict: tuple[str, ...] = ()
    placement: Placement | None = None
    device: str | None = None
    need: int = 0
    short: int = 0


def plan(request: Request, residents: Iterable[Resident], budget: Mapping[str, int]) -> Plan:
    """Make room for `request` within `budget` (bytes by device), ending least recently used models first and no more
    of them than needed.

    Of placements of one rank: the first that fits as things are, else the first that fits when others go, else to
    wait. A device that is not in `budget` has none.
    """
    held = list(residents)
    mine = next((one for one in held if one.model == request.model and not one.ending), None)
    if mine is not None:
        return _grow(request, mine, [one for one in held if one is not mine], budget)
    sums = _Held(held)
    plans = [(placement, _place(placement, sums, budget)) for placement in request.placements]
    return _best(plans)


def _best(plans: list[tuple[Placement, Plan]]) -> Plan:
    possible = [(placement, made) for placement, made in plans if made.mode != "refuse"]
    if not possible:
        return min((made for _, made in plans), key=lambda made: made.short)
    rank = min(placement.rank for placement, _ in possible)
    return min((made for placement, made in possible if placement.rank == rank),
               key=lambda made: (_ORDER[made.mode], bool(made.evict)))


def _grow(request: Request, mine: Resident, others: list[Resident], budget: Mapping[str, int]) -> Plan:
    """The least that the request needs where the model is now, if that is more than it holds."""
    here = [placement for placement in request.placements if placement.devices == mine.devices]
    if not here:
        return Plan(mode="resident")
    least = min(here, key=lambda placement: sum(lease.bytes for lease in placement.leases))
    have = bytes_by_device(mine.leases)
    if all(size <= have.get(device, 0) for device, size in bytes_by_device(least.leases).items()):
        return Plan(mode="resident")
    larger = least.model_copy(update={"leases": largest(mine.leases, least.leases)})
    made = _place(larger, _Held(others), budget)
    return made.model_copy(update={"mode": "grow"}) if made.mode == "load" else made


class _Held:
    """The residents, and sums over them."""

    def __init__(self, residents: list[Resident]) -> None:
        self.residents = residents
        self.used = bytes_by_device(lease for one in residents for lease in one.leases)
        self.pinned = bytes_by_device(
            lease for one in residents if one.pinned and not one.ending for lease in one.leases)


def _place(placement: Placement, held: _Held, budget: Mapping[str, int]) -> Plan:
    need = {device: size for device, size in bytes_by_device(placement.leases).items() if size}
    over = {device: size + held.pinned.get(device, 0) - budget.get(device, 0) for device, size in need.items()}
    if any(short > 0 for short in over.values()):
        device = max(over, key=lambda name: over[name])
        return Plan(mode="refuse", placement=placement, device=device, need=need[device], short=over[device])
    short = {device: size + held.used.get(device, 0) - budget.get(device, 0) for device, size in need.items()}
    evict = _evict(short, held.residents) if any(size > 0 for size in short.values()) else []
    lacking = {device: size for device, size in short.items() if size > 0}
    if lacking:
        device = max(lacking, key=lambda name: lacking[name])
        return Plan(mode="wait", placement=placement, device=device, need=need[device], short=lacking[device])
    return Plan(mode="load", placement=placement, evict=tuple(one.model for one in evict))


def _evict(short: dict[str, int], residents: list[Resident]) -> list[Resident]:
    """Least recently used first, until nothing is short; without those that a later, larger one made needless. What
    they free is taken from `short`."""
    evict = []
    for one in sorted((one for one in residents if one.movable), key=lambda one: one.last_used):
        if any(short.get(lease.device, 0) > 0 and lease.bytes for lease in one.leases):
            evict.append(one)
            for lease in one.leases:
                if lease.device in short:
                    short[lease.device] -= lease.bytes
    for one in sorted(evict, key=lambda one: one.last_used, reverse=True):
        freed = {device: size for device, size in bytes_by_device(one.leases).items() if device in short}
        if all(short[device] + size <= 0 for device, size in freed.items()):
            evict.remove(one)
            for device, size in freed.items():
                short[device] += size
    return evict


__all__ = ["Lease", "Placement", "Plan", "Request", "Resident", "plan"]
