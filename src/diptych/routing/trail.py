"""What became of one request on its way over the targets, for the client's headers and for the log."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from diptych.core.routes import Fault

Outcome = Literal["ok", "unfit", "cooling", "final", "broken-off", "left"] | Fault
"""Of one attempt. "unfit": not asked, because it cannot do what is asked for; "cooling": not asked, it failed lately;
"final": a fault that no other target would mend; "broken-off": in the middle of its answer; "left": the client went."""
_PLAIN = "/:@+._-"


@dataclass
class Attempt:
    """`outcome` is None while it lasts."""

    model: str
    outcome: Outcome | None = None
    seconds: float = 0.0


@dataclass
class Trail:
    """Of one HTTP request. `orders` keeps the order of each route that was drawn for it: all runs of one request go to
    the same target first. `retry_after`: seconds until the first of those that were left alone is tried again."""

    attempts: list[Attempt] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    retry_after: float | None = None

    def says(self, model: str) -> None:
        """`model` has begun to answer."""
        if model not in self.answered:
            self.answered.append(model)

    def waits(self, seconds: float) -> None:
        """A target is left alone for so long."""
        self.retry_after = seconds if self.retry_after is None else min(seconds, self.retry_after)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-diptych-model`: who answered. `x-diptych-attempts`: who of a route was asked, and how that went."""
        found = []
        if self.answered:
            found.append((b"x-diptych-model", ", ".join(_shown(model) for model in self.answered).encode()))
        if self.attempts:
            told = (f"{_shown(attempt.model)};{attempt.outcome or 'ok'}" for attempt in self.attempts)
            found.append((b"x-diptych-attempts", ", ".join(told).encode()))
        return found


def _shown(model: str) -> str:
    return quote(model, safe=_PLAIN)


_trail: ContextVar[Trail | None] = ContextVar("diptych_trail", default=None)


def begin_trail() -> Trail:
    """A new trail for the request that begins here, and the tasks that begin inside."""
    trail = Trail()
    _trail.set(trail)
    return trail


def this_trail() -> Trail:
    """That of the request which is being answered; outside of one, a trail that nobody reads."""
    return _trail.get() or Trail()
