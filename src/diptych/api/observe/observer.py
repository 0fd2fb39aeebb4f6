"""What watches one server, in one place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psutil

from diptych.api.observe.lifecycle import Lifecycle
from diptych.api.observe.metrics import Metrics
from diptych.api.observe.ready import Readiness
from diptych.api.observe.snapshot import Snapshots


class Busy:
    """How busy the machine's cores are, in percent of all of them."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._idle, self._total = _times()
        self._percent = 0.0

    def percent(self) -> float:
        """Since the last call that lies at least half a second back; the same again until then."""
        if time.monotonic() - self._looked >= 0.5:
            idle, total = _times()
            if total > self._total:
                self._percent = round(100 * (1 - (idle - self._idle) / (total - self._total)), 1)
            self._looked, self._idle, self._total = time.monotonic(), idle, total
        return min(100.0, max(0.0, self._percent))


def _times() -> tuple[float, float]:
    now = psutil.cpu_times()
    # Linux counts the time of guests in "user" as well.
    return now.idle + getattr(now, "iowait", 0.0), sum(now) - getattr(now, "guest", 0.0) - getattr(
        now, "guest_nice", 0.0)


@dataclass(frozen=True)
class Observer:
    """`readiness` looks at the parts of a server that has started."""

    metrics: Metrics
    lifecycle: Lifecycle
    readiness: Readiness
    snapshots: Snapshots = field(default_factory=Snapshots)
    busy: Busy = field(default_factory=Busy)
