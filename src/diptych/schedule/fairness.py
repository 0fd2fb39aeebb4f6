"""In which order waiting jobs are served: class by class, weighted round robin between callers inside a class, models
that are loaded before others within a bound. No input or output, no clock of its own.

The round robin is stride scheduling (Waldspurger and Weihl, 1995): every service moves a caller's tag on by
1 / weight, and the smallest tag is next. A caller who comes back is not owed for the time it was away: its tag is at
least that of whoever was served last.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from diptych.core.jobs import Priority

CLASSES: tuple[Priority, ...] = (Priority.INTERACTIVE, Priority.BATCH, Priority.TRAINING)
TIE = 1e-6
"""Tags that differ by less are equal."""
KEPT_CALLERS = 1000
"""So many tags are kept before those that no longer matter are forgotten."""

WeightOf = Callable[[str], float]


class Queued(Protocol):
    """As much of a waiting job as its turn depends on. Ids sort by arrival."""

    @property
    def id(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def caller(self) -> str: ...


class QueuedFor(Queued, Protocol):
    @property
    def model(self) -> str: ...


Item = TypeVar("Item", bound=Queued)
ItemFor = TypeVar("ItemFor", bound=QueuedFor)
Tags = Mapping[str, float]
"""A number per caller that grows with every job served; callers not in it have 0."""


def equal_weights(caller: str) -> float:
    return 1.0


class Turns:
    """Who was served how much, per class."""

    def __init__(self, weight_of: WeightOf = equal_weights) -> None:
        self._given = weight_of
        self._next: dict[tuple[Priority, str], float] = {}
        self._now = dict.fromkeys(CLASSES, 0.0)

    def weight_of(self, caller: str) -> float:
        return max(1e-3, float(self._given(caller)))

    def tag(self, priority: Priority, caller: str) -> float:
        return max(self._next.get((priority, caller), 0.0), self._now[priority])

    def took(self, priority: Priority, caller: str) -> None:
        """A job of this caller has been begun."""
        tag = self.tag(priority, caller)
        self._now[priority] = tag
        self._next[priority, caller] = tag + 1 / self.weight_of(caller)
        if len(self._next) > KEPT_CALLERS:
            self._next = {key: tag for key, tag in self._next.items() if tag > self._now[key[0]]}

    def order(self, heads: Iterable[Item]) -> list[Item]:
        """Candidates for the next free place."""
        return sorted(heads, key=lambda job: (
            CLASSES.index(job.priority), round(self.tag(job.priority, job.caller) / TIE), job.id))


def order_heads(heads: Iterable[Item], served: Tags) -> list[Item]:
    """Candidates for the next free place: by class, then the caller with the smallest tag, then by arrival."""
    return sorted(heads, key=lambda job: (CLASSES.index(job.priority), served.get(job.caller, 0.0), job.id))


@dataclass(frozen=True)
class Share:
    """All that one caller has queued of one class: how many, the tag and weight that it has, and the id of the first,
    which decides between equal tags."""

    priority: Priority
    caller: str
    queued: int
    tag: float
    weight: float
    first: str

    def before(self, tag: float, first: str) -> int:
        """How many of these are served before a job with this tag, of a caller whose first job is `first`."""
        ahead = (tag - self.tag) * self.weight
        number = math.floor(ahead + TIE) + 1 if self.first < first else math.ceil(ahead - TIE)
        return min(self.queued, max(0, number))


def position(share: Share, rank: int, shares: Iterable[Share]) -> dict[tuple[Priority, str], int]:
    """How many jobs of each class and caller are served before the job number `rank` (from 0) of `share`, if all needed
    the same place. Their sum is the job's position."""
    tag = share.tag + rank / share.weight
    ahead: dict[tuple[Priority, str], int] = {}
    for other in shares:
        key = (other.priority, other.caller)
        if key == (share.priority, share.caller):
            ahead[key] = rank
        elif other.priority is share.priority:
            ahead[key] = other.before(tag, share.first)
        elif CLASSES.index(other.priority) < CLASSES.index(share.priority):
            ahead[key] = other.queued
    return ahead


def sequence(shares: Iterable[Share]) -> Iterator[tuple[Priority, str]]:
    """Whose job is served next, again and again, until all are."""
    held = list(shares)
    for priority in CLASSES:
        line = [(round(share.tag / TIE), share.first, 0, share) for share in held
                if share.priority is priority and share.queued]
        heapq.heapify(line)
        while line:
            _, first, served, share = heapq.heappop(line)
            yield priority, share.caller
            if served + 1 < share.queued:
                tag = share.tag + (served + 1) / share.weight
                heapq.heappush(line, (round(tag / TIE), first, served + 1, share))


def serving_order(queued: Sequence[Item], served: Tags, weight_of: WeightOf = equal_weights) -> list[Item]:
    """All these jobs in the order in which they would be served if all needed the same place."""
    lines: dict[tuple[Priority, str], list[Item]] = {}
    for job in queued:
        lines.setdefault((job.priority, job.caller), []).append(job)
    shares = [Share(priority, caller, len(line), served.get(caller, 0.0), weight_of(caller), line[0].id)
              for (priority, caller), line in lines.items()]
    left = {key: iter(line) for key, line in lines.items()}
    return [next(left[key]) for key in sequence(shares)]


class Affinity:
    """Jobs for a model that is ready may go before the job whose turn it is, if that one's model would have to push
    another out of memory. A job that was passed over `jobs` times or for `seconds` is *overdue*: it goes first, and
    nothing of its class or below may go before it.

    A class of higher standing is never held up by one below it.
    """

    def __init__(self, jobs: int = 8, seconds: float = 10.0) -> None:
        self._jobs, self._seconds = jobs, seconds
        self._passed: dict[tuple[Priority, str, str], tuple[int, float]] = {}

    def arrange(
        self, order: Sequence[ItemFor], costly: Collection[str], now: float,
    ) -> list[ItemFor]:
        """The candidates as they are to be tried.

        Args:
            order: by turns.
            costly: models that are not ready and for which another would have to go.
            now: seconds of any one monotonic clock.
        """
        result: list[ItemFor] = []
        for priority in CLASSES:
            heads = [job for job in order if job.priority is priority]
            late = [job for job in heads if job.model in costly and self.overdue(job, now)]
            ready = [job for job in heads if job.model not in costly]
            result += late + ready + [job for job in heads if job.model in costly and job not in late]
        return result

    def overdue(self, job: QueuedFor, now: float) -> bool:
        passed, since = self._passed.get(_line(job), (0, now))
        return passed >= self._jobs or now - since >= self._seconds

    def began(self, job: QueuedFor, order: Sequence[QueuedFor], costly: Collection[str], now: float) -> None:
        """`job` was begun although those before it in `order` had an earlier turn."""
        for other in order:
            if other.id == job.id:
                break
            if other.model in costly and other.model != job.model:
                passed, since = self._passed.get(_line(other), (0, now))
                self._passed[_line(other)] = (passed + 1, since)
        self._passed.pop(_line(job), None)

    def keep(self, heads: Iterable[QueuedFor], costly: Collection[str]) -> None:
        """Forget lines in which nothing waits, or whose model is ready: those were served."""
        lines = {_line(job) for job in heads if job.model in costly}
        self._passed = {line: value for line, value in self._passed.items() if line in lines}


def _line(job: QueuedFor) -> tuple[Priority, str, str]:
    return job.priority, job.caller, job.model
