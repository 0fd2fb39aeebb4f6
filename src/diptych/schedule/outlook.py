"""Positions and times of what waits, from the counters of the lines: no question reads the whole queue."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from diptych.core.jobs import Job, Priority
from diptych.schedule.fairness import Share, Turns, position, sequence
from diptych.schedule.speeds import Key, Speeds, Work, work_of
from diptych.store.jobs import JobStore
from diptych.store.lines import Line

Who = tuple[Priority, str]


class Place(NamedTuple):
    """`position` 0 is next; `eta_seconds` until the job will be done."""

    position: int
    eta_seconds: float | None


class Outlook:
    """Positions as if all jobs needed the same place; times as if the models worked one after the other, each with as
    many pictures together as `batch` allows.

    Args:
        running: what is still to be done of the jobs that run here; called from worker threads.
    """

    def __init__(
        self, store: JobStore, turns: Turns, speeds: Speeds, batch: int, running: Callable[[], list[Work]],
    ) -> None:
        self._store, self._turns, self._speeds, self._batch = store, turns, speeds, batch
        self._running = running

    def queue(self, limit: int) -> list[tuple[Job, int, float | None]]:
        """The first `limit` jobs in serving order. Blocking."""
        lines, shares = self._shares()
        order = list(islice(sequence(shares), limit))
        wanted = Counter(order)
        left: dict[Who, list[Job]] = {who: [] for who in wanted}
        for job in reversed(self._store.first_of(wanted)):
            left[job.priority, job.caller].append(job)
        ahead, beside = self._ahead(), self._pictures(lines)
        result: list[tuple[Job, int, float | None]] = []
        for who in order:
            if left[who]:  # else it was claimed or cancelled since the lines were read
                job = left[who].pop()
                result.append((job, len(result), self._eta(ahead, work_of(job.spec), beside)))
        return result

    def places(self, ids: Iterable[str]) -> dict[str, Place]:
        """Of those of these jobs that are queued. Blocking."""
        jobs = self._store.waiting(ids)
        if not jobs:
            return {}
        ranks = self._store.ranks(jobs)
        specs = {job.id: job.spec for job in self._store.get_many(ranks)}
        lines, shares = self._shares()
        mine = {(share.priority, share.caller): share for share in shares}
        beside = self._pictures(lines)
        found: dict[str, Place] = {}
        for job in jobs:
            share = mine.get((job.priority, job.caller))
            if share is None or job.id not in specs:  # claimed or cancelled since
                continue
            before = position(share, ranks[job.id], shares)
            ahead = self._ahead()
            for work in _portions(lines, before):
                ahead.add(work)
            found[job.id] = Place(sum(before.values()), self._eta(ahead, work_of(specs[job.id]), beside))
        return found

    def _shares(self) -> tuple[list[Line], list[Share]]:
        lines = self._store.lines()
        queued: Counter[Who] = Counter()
        for line in lines:
            queued[line.priority, line.caller] += line.queued
        first: dict[Who, str] = {}
        for head in self._store.heads():
            first.setdefault((head.priority, head.caller), head.id)
        turns = self._turns
        return lines, [
            Share(who[0], who[1], queued[who], turns.tag(*who), turns.weight_of(who[1]), id)
            for who, id in first.items() if queued[who] > 0]

    def _ahead(self) -> Ahead:
        ahead = Ahead()
        for work in self._running():
            ahead.add(work)
        return ahead

    def _pictures(self, lines: list[Line]) -> dict[str, float]:
        """By model, all pictures that could share a batch."""
        pictures: dict[str, float] = defaultdict(float)
        for work in self._running():
            pictures[work.model] += work.pictures
        for line in lines:
            pictures[line.model] += line.pictures
        return pictures

    def _eta(self, ahead: Ahead, own: Work, beside: dict[str, float]) -> float | None:
        """Adds `own` to what is ahead. A job is done when all that is ahead and itself are done, and not before it has
        taken all its steps in a batch that it shares."""
        ahead.add(own)
        total = self._speeds.seconds(ahead.work(), self._batch)
        alone = self._speeds.alone(own, beside[own.model], self._batch)
        return None if total is None or alone is None else max(total, alone)


class Ahead:
    """A sum of work, by model and size."""

    def __init__(self) -> None:
        self._sums: dict[Key, Work] = {}

    def add(self, work: Work) -> None:
        old = self._sums.get(work.key, Work(work.model, work.shape, 0, 0.0))
        self._sums[work.key] = Work(
            work.model, work.shape, old.pictures + work.pictures, old.steps + work.steps)

    def work(self) -> Iterable[Work]:
        return self._sums.values()


def _portions(lines: list[Line], before: dict[Who, int]) -> Iterator[Work]:
    """The work of the first so many jobs of each caller, taken as their share of all that the caller has queued."""
    queued: Counter[Who] = Counter()
    for line in lines:
        queued[line.priority, line.caller] += line.queued
    for line in lines:
        who = (line.priority, line.caller)
        share = before.get(who, 0) / queued[who]
        if share > 0:
            yield Work(line.model, line.shape, line.pictures * share, line.steps * share)
