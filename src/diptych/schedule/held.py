"""One model and its runner, as the pool holds them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict

from diptych.core.cards import Card
from diptych.core.protocol import Health
from diptych.runners.local import Runner
from diptych.schedule.arbiter import Placement, Resident
from diptych.schedule.leases import Lease, Leases, beyond, bytes_by_device, growth


class RunnerInfo(BaseModel):
    """A runner as the API shows it. `bytes_leased` is what the plan counts for it, on all devices; `leases` says what
    for. `threads` is what it computes with now. `idle_seconds` is 0 while it works."""

    model_config = ConfigDict(frozen=True)

    id: str | None
    model: str
    engine: str | None
    state: str
    running: int
    bytes_leased: int
    bytes_resident: int
    bytes_peak: int
    pid: int | None
    started_at: datetime
    idle_seconds: float = 0.0
    device: str = "cpu"
    threads: int | None = None
    pinned: bool = False
    leases: tuple[Lease, ...] = ()


class Held:
    """A model from the decision to load it until its process has gone.

    Args:
        placement: where it is, and the leases that go with it.
        awaits: who ends to make room for it.
        told: called when work enters or leaves.
    """

    def __init__(
        self, card: Card, placement: Placement, awaits: list[Held], threads: int, told: Callable[[], None],
    ) -> None:
        self.card, self.placement, self.threads = card, placement, threads
        self.leases: Leases = placement.leases
        self.runner: Runner | None = None
        self.users: Counter[str] = Counter()
        self.pictures = 0
        self.pinned = False
        self.ending = False
        self.started_at = datetime.now(timezone.utc)
        self.last_used = time.monotonic()
        self.looked = 0.0
        self.loaded_bytes = 0
        """What the process held when its model was loaded."""
        self.health: Health | None = None
        self.figures: dict[str, float] = {}
        """What was learnt of it: bytes by label."""
        self.size: tuple[int, int] | None = None
        """The largest picture that was asked of it, in pixels; None: none beyond the model's own size."""
        self._before: Leases = ()
        self._awaits = list(awaits)
        self._told = told

    @property
    def ready(self) -> bool:
        return self.runner is not None and self.runner.alive and not self.ending

    @property
    def busy(self) -> bool:
        return self.runner is None or self.users.total() > 0

    @property
    def device(self) -> str:
        return self.placement.devices[0]

    @property
    def roomy(self) -> bool:
        """Whether all that was to make room for it has gone."""
        self._awaits = [one for one in self._awaits if one.ending]
        if not self._awaits:
            self._before = ()
        return not self._awaits

    def enter(self, caller: str, pictures: int = 0) -> None:
        self.users[caller] += 1
        self.pictures += pictures
        self._told()

    def leave(self, caller: str, pictures: int = 0) -> None:
        self.users[caller] -= 1
        if not self.users[caller]:
            del self.users[caller]
        self.pictures -= pictures
        self.last_used = time.monotonic()
        self._told()

    def grow(self, leases: Leases, awaits: list[Held]) -> None:
        """Take larger leases; those who make room for that still count for as long as they end."""
        self._before = self.counted()
        self._awaits += awaits
        self.leases = leases

    def correct(self, leases: Leases) -> None:
        """Replace the leases by those that were measured."""
        if self.roomy:
            self.leases = leases

    def counted(self) -> Leases:
        """The leases that count now. Until those whose place it takes have gone, only what goes beyond theirs: they
        count themselves."""
        if self.roomy:
            return self.leases
        theirs = bytes_by_device(lease for one in self._awaits for lease in one.leases)
        return self._before + beyond(growth(self._before, self.leases), theirs)

    def resident(self) -> Resident:
        return Resident(
            model=self.card.id, leases=self.counted(), devices=self.placement.devices, busy=self.busy,
            pinned=self.pinned, ending=self.ending, last_used=self.last_used)

    def info(self) -> RunnerInfo:
        runner, health = self.runner, self.health
        state = "ending" if self.ending else "ready" if self.ready else "loading"
        return RunnerInfo(
            id=runner.id if runner else None, model=self.card.id, engine=runner.engine if runner else None,
            state=state, running=self.users.total(), bytes_leased=sum(lease.bytes for lease in self.leases),
            bytes_resident=health.bytes_resident if health else 0, bytes_peak=health.bytes_peak if health else 0,
            pid=runner.process.pid if runner else None, started_at=self.started_at,
            idle_seconds=0.0 if self.busy else round(time.monotonic() - self.last_used, 1), device=self.device,
            threads=self.threads, pinned=self.pinned, leases=self.leases)
