"""In which order waiting jobs are served. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from diptych.core.jobs import Job, Priority

CLASSES: tuple[Priority, ...] = (Priority.INTERACTIVE, Priority.BATCH, Priority.TRAINING)


class Queued(Protocol):
    """As much of a waiting job as its turn depends on."""

    @property
    def id(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def caller(self) -> str: ...


Item = TypeVar("Item", bound=Queued)


def order_heads(heads: Iterable[Item], served: Mapping[str, int]) -> list[Item]:
    """Candidates for the next free place: by class, then the caller who was served longest ago, then by arrival.

    Args:
        heads: the first queued job of every caller (and model).
        served: a number per caller that grows with every job served; callers not in it come first.
    """
    return sorted(heads, key=lambda job: (CLASSES.index(job.priority), served.get(job.caller, -1), job.id))


def serving_order(queued: Sequence[Job], served: Mapping[str, int]) -> list[Job]:
    """All queued jobs in the order in which they would be served if all needed the same place: class by class, round
    robin between callers inside a class."""
    result: list[Job] = []
    for priority in CLASSES:
        lines: dict[str, deque[Job]] = {}
        for job in queued:
            if job.priority is priority:
                lines.setdefault(job.caller, deque()).append(job)
        turn = deque(sorted(lines, key=lambda caller: (served.get(caller, -1), lines[caller][0].id)))
        while turn:
            caller = turn.popleft()
            result.append(lines[caller].popleft())
            if lines[caller]:
                turn.append(caller)
    return result
