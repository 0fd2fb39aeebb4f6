"""Leases: promises of device memory, and sums over them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LeaseKind = Literal["runtime", "weights", "cache", "activations", "training"]


class Lease(BaseModel):
    """`bytes` of `device` ("cpu", "cuda:0" …) for one purpose. `runtime` is what a process needs before it holds a
    model: libraries, contexts of a driver."""

    model_config = ConfigDict(frozen=True)

    device: str
    kind: LeaseKind
    bytes: int = Field(ge=0)


Leases = tuple[Lease, ...]


def bytes_by_device(leases: Iterable[Lease]) -> dict[str, int]:
    """Bytes per device, all kinds together."""
    total: dict[str, int] = {}
    for lease in leases:
        total[lease.device] = total.get(lease.device, 0) + lease.bytes
    return total


def largest(one: Leases, other: Leases) -> Leases:
    """The larger lease of each device and kind."""
    found = {(lease.device, lease.kind): lease for lease in one}
    for lease in other:
        key = (lease.device, lease.kind)
        if key not in found or found[key].bytes < lease.bytes:
            found[key] = lease
    return tuple(found.values())


def beyond(leases: Leases, inherited: Mapping[str, int]) -> Leases:
    """What of `leases` goes beyond the bytes per device that are still counted for those whose place they take."""
    if not inherited:
        return leases
    left = dict(inherited)
    rest = []
    for lease in leases:
        covered = min(lease.bytes, left.get(lease.device, 0))
        left[lease.device] = left.get(lease.device, 0) - covered
        rest.append(lease.model_copy(update={"bytes": lease.bytes - covered}))
    return tuple(rest)


def growth(before: Leases, after: Leases) -> Leases:
    """What `after` has more than `before`, of each device and kind."""
    had = {(lease.device, lease.kind): lease.bytes for lease in before}
    more = [lease.model_copy(update={"bytes": max(0, lease.bytes - had.get((lease.device, lease.kind), 0))})
            for lease in after]
    return tuple(lease for lease in more if lease.bytes)
