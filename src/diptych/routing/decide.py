"""The decisions of routing, without clock, chance or state: whom to ask first, and whom to leave alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from diptych.core.routes import Strategy

STALE_SECONDS = 300.0
"""A time to the first token that is older says nothing any more: the target is tried again."""
SMOOTHING = 0.3
"""Weight of the newest time to the first token in the average."""
MOST_DOUBLINGS = 4
"""A cooldown is doubled at most so often: to 16 times its length."""
State = Literal["ready", "cooling", "half-open", "probing"]


@dataclass(frozen=True)
class Health:
    """What is known of one target. Times are seconds of one monotonic clock.

    `failures` in a row; `trips`: cooldowns in a row; `until`: end of the cooldown, None when it is not in one;
    `probing`: one request finds out whether it answers again; `first_token` is an average, measured last `at`.
    """

    failures: int = 0
    trips: int = 0
    until: float | None = None
    probing: bool = False
    first_token: float | None = None
    at: float = 0.0

    def state(self, now: float) -> State:
        if self.until is None:
            return "ready"
        if now < self.until:
            return "cooling"
        return "probing" if self.probing else "half-open"

    def may_try(self, now: float) -> bool:
        """After a cooldown one request goes through; the others keep away until it is known how that went."""
        return self.state(now) in ("ready", "half-open")

    def tried(self, now: float) -> Health:
        """A request goes to it now; only when `may_try`."""
        return replace(self, probing=True) if self.state(now) == "half-open" else self

    def answered(self, now: float, seconds: float | None) -> Health:
        """It gave a first token after so many seconds (None: not measured), or a refusal, which shows that it lives."""
        health = replace(self, failures=0, trips=0, until=None, probing=False)
        if seconds is None:
            return health
        before = health.latency(now)
        average = seconds if before is None else before + SMOOTHING * (seconds - before)
        return replace(health, first_token=average, at=now)

    def failed(self, now: float, after: int, seconds: float) -> Health:
        """It did not answer. `after` such failures in a row, or one of a probe, begin a cooldown of `seconds`, which
        doubles from cooldown to cooldown."""
        failures = self.failures + 1
        if seconds <= 0 or (failures < after and self.until is None):
            return replace(self, failures=failures, probing=False)
        if self.until is not None and not self.probing and now < self.until:
            return replace(self, failures=failures)  # it was asked before the cooldown began
        until = now + seconds * 2.0 ** min(self.trips, MOST_DOUBLINGS)
        return replace(self, failures=failures, trips=self.trips + 1, until=until, probing=False)

    def left(self) -> Health:
        """The request ended and told nothing about the target: its client has gone."""
        return replace(self, probing=False)

    def latency(self, now: float) -> float | None:
        """The average time to the first token; None where none was measured lately."""
        return None if self.first_token is None or now - self.at > STALE_SECONDS else self.first_token


@dataclass(frozen=True)
class Candidate:
    """What the choice depends on. `busy`: answers that it works on now; `latency`: seconds, None: not known."""

    weight: float = 1.0
    busy: int = 0
    latency: float | None = None


def order(strategy: Strategy, candidates: Sequence[Candidate], draws: Sequence[float]) -> list[int]:
    """Indices of all candidates, in the order in which they are asked.

    Args:
        draws: a number from [0, 1) for each candidate, of chance.

    "order": as they are. "weighted": each is first with a probability of its share of the weights, and so on among the
    rest (Efraimidis and Spirakis 2006). "least-busy": the fewest answers per weight first, of equals as "weighted".
    "latency": those not measured lately first, so that they are, then the quickest. A weight of 0 comes last.
    """
    indices = list(range(len(candidates)))
    if strategy == "order":
        return indices
    chance = {index: _chance(candidates[index].weight, draws[index]) for index in indices}
    if strategy == "weighted":
        return sorted(indices, key=lambda index: (candidates[index].weight == 0, chance[index]))
    if strategy == "least-busy":
        return sorted(indices, key=lambda index: (
            candidates[index].weight == 0, candidates[index].busy / (candidates[index].weight or 1.0), chance[index]))
    return sorted(indices, key=lambda index: _quickness(candidates[index]))


def _chance(weight: float, draw: float) -> float:
    """An exponential variable of the rate `weight`: the smallest of several is this one's with a probability of its
    share of the rates."""
    return -math.log1p(-draw) / weight if weight > 0 else draw


def _quickness(candidate: Candidate) -> tuple[bool, bool, float]:
    """Of those not measured, the one that nobody waits for yet comes first: one request is enough to find out."""
    unknown = candidate.latency is None
    if unknown and candidate.busy:
        return (candidate.weight == 0, True, float("inf"))
    return (candidate.weight == 0, not unknown, 0.0 if candidate.latency is None else candidate.latency)
