"""Asks the targets of a route, one after the other, until one answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from diptych.core.endings import until_set
from diptych.core.errors import DiptychError, RateLimited
from diptych.core.events import Data, Event, Failed, Finished, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.routes import Route, RouteTarget
from diptych.routing.decide import Candidate, Health, State, order
from diptych.routing.faults import Failure, broken_off, failure_of, failure_of_error, together
from diptych.routing.trail import Attempt, Outcome, Trail

Result = TypeVar("Result")
ENDED_EARLY = Failure("outage", "its answer ended early", 503, "ended_early")
FILTERED = Failure("refusal", "it refused to speak about this (content_filter)", 400, "content_filter")
UNLOADED = Failure("outage", "its model was unloaded", 503, "unloaded")

log = logging.getLogger("diptych.routing")


@dataclass
class Course:
    """One request's way. `unfit` are the targets that cannot do what is asked for; `whole`: nothing is told to the
    client before all is there, so that another target may still answer after a break in the middle."""

    name: str
    route: Route
    targets: tuple[RouteTarget, ...]
    trail: Trail
    whole: bool = False
    unfit: list[tuple[str, Failure]] = field(default_factory=list)
    answered: str | None = None

    def drop(self, model: str, failure: Failure) -> None:
        """Leave out a target that cannot do what is asked for."""
        self.targets = tuple(target for target in self.targets if target.model != model)
        self.unfit.append((model, failure))
        self.trail.attempts.append(Attempt(model, "unfit"))


@dataclass
class Live:
    """What is known of one model as a target, by whichever route. `counts`: outcomes of its attempts."""

    health: Health = field(default_factory=Health)
    busy: int = 0
    last: Failure | None = None
    counts: Counter[str] = field(default_factory=Counter)


class Router:
    """The routes of the settings, and how their targets do. Belongs to one event loop.

    Args:
        clock: seconds, never going back.
        draw: a number from [0, 1), of chance.
        note: is told the model and the outcome of each attempt.
    """

    def __init__(
        self, routes: Mapping[str, Route] | None = None, clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random, note: Callable[[str, str], None] = lambda model, outcome: None,
    ) -> None:
        self.routes = dict(routes or {})
        self._clock, self._draw, self._note = clock, draw, note
        self._live: dict[str, Live] = {}

    def live(self, model: str) -> Live:
        return self._live.setdefault(model, Live())

    def state(self, model: str) -> tuple[Live, State, float, float | None]:
        """What is known of a target: its state, the seconds that its cooldown still takes, and those that it lately
        took to its first token."""
        live, now = self.live(model), self._clock()
        health = live.health
        return live, health.state(now), max(0.0, (health.until or now) - now), health.latency(now)

    def course(self, model: str, others: Sequence[str], trail: Trail, *, whole: bool = False) -> Course | None:
        """The way of a request for `model`, and then `others` (its `models`), each of which may be a route; None for
        one model that is no route."""
        names = [model, *(name for name in others if name != model)]
        if len(names) == 1:
            route = self.routes.get(model)
            return None if route is None else Course(model, route, self._ordered(model, route, trail), trail, whole)
        targets: dict[str, RouteTarget] = {}
        for name in names:
            route = self.routes.get(name)
            found = (RouteTarget(model=name),) if route is None else self._ordered(name, route, trail)
            for target in found:
                targets.setdefault(target.model, target)
        listed = tuple(targets.values())
        return Course(", ".join(names), Route(targets=listed), listed, trail, whole)

    def _ordered(self, name: str, route: Route, trail: Trail) -> tuple[RouteTarget, ...]:
        by_name = {target.model: target for target in route.targets}
        if name not in trail.orders:
            now = self._clock()
            candidates = [Candidate(target.weight, self.live(target.model).busy,
                                    self.live(target.model).health.latency(now)) for target in route.targets]
            indices = order(route.strategy, candidates, [self._draw() for _ in candidates])
            trail.orders[name] = tuple(route.targets[index].model for index in indices)
        return tuple(by_name[model] for model in trail.orders[name])

    @contextlib.contextmanager
    def using(self, model: str) -> Iterator[None]:
        """While `model` works on an answer, for a route or not."""
        live = self.live(model)
        live.busy += 1
        try:
            yield
        finally:
            live.busy -= 1

    async def stream(
        self, course: Course, begin: Callable[[str], AsyncGenerator[Event, None]], stop: asyncio.Event,
    ) -> AsyncGenerator[Event, None]:
        """The events of the first target that answers. Once a part of its answer was told, no other is asked: what
        fails then ends it with a `Failed`.

        Args:
            begin: starts a run of the model with this name; may raise DiptychError.
            stop: set where the answer is to end; nobody else is asked then.

        Raises:
            RateLimited: the caller's own limit.
        """
        failures = list(course.unfit)
        for target in course.targets:
            trial = self._admitted(course, target, failures)
            if trial is None:
                continue
            with trial:
                async with contextlib.aclosing(_told(trial, begin(target.model), stop)) as events:
                    async for event in events:
                        yield event
            if trial.failure is None:
                return
            failures.append((target.model, trial.failure))
            if trial.told:
                yield broken_off(trial.failure)
                return
            if stop.is_set() or trial.failure.fault not in course.route.fallback_on:
                yield trial.failure.event()
                return
        yield together(course.name, failures).event()

    async def value(self, course: Course, work: Callable[[str], Awaitable[Result]]) -> Result:
        """What `work` gives for the first target that it can be done with; all of it by that one.

        Raises:
            DiptychError: no target could do it, or one failed in a way that no other would mend.
        """
        failures = list(course.unfit)
        for target in course.targets:
            trial = self._admitted(course, target, failures)
            if trial is None:
                continue
            with trial:
                try:
                    found = await asyncio.wait_for(work(target.model), target.first_token_seconds)
                except asyncio.TimeoutError:
                    trial.failure = late(target)
                except DiptychError as error:
                    trial.failure = failure_of_error(error)
                    if trial.failure.fault not in course.route.fallback_on:
                        raise
                else:
                    trial.begins()
                    trial.tells()
                    return found
            failures.append((target.model, trial.failure))
        raise together(course.name, failures).error()

    def _admitted(
        self, course: Course, target: RouteTarget, failures: list[tuple[str, Failure]],
    ) -> Trial | None:
        """An attempt with this target; None where it is left alone, which is noted in `failures`."""
        live, state, left, _ = self.state(target.model)
        if course.route.cooldown_seconds and not live.health.may_try(self._clock()):
            last = live.last or ENDED_EARLY
            words = f"it is left alone for {left:.0f} s more" if state == "cooling" else "another request tries it now"
            failures.append((target.model, replace(last, message=f"{words}, because lately {last.message}")))
            course.trail.attempts.append(Attempt(target.model, "cooling"))
            course.trail.waits(left)
            return None
        return Trial(live, course, target, self._clock, self._note)


class Trial:
    """One attempt with one target: notes how it went when it is left. `told`: a part of the answer has gone out."""

    def __init__(
        self, live: Live, course: Course, target: RouteTarget, clock: Callable[[], float],
        note: Callable[[str, str], None],
    ) -> None:
        self._live, self.course, self.target, self._clock, self._note = live, course, target, clock, note
        self._noted = Attempt(target.model)
        self._began = clock()
        self._first: float | None = None
        self.failure: Failure | None = None
        self.told = False

    def __enter__(self) -> None:
        self._live.health = self._live.health.tried(self._began)
        self.course.trail.attempts.append(self._noted)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        now = self._clock()
        self._noted.seconds = now - self._began
        self._noted.outcome = outcome = self._outcome(kind)
        self._live.counts[outcome] += 1
        self._note(self.target.model, outcome)
        if outcome == "left" or (kind is not None and self.failure is None):
            self._live.health = self._live.health.left()
        elif self.failure is None or self.failure.fault in (None, "refusal"):
            self._live.health = self._live.health.answered(now, None)
        else:
            self._live.last = self.failure
            route = self.course.route
            self._live.health = self._live.health.failed(now, route.cooldown_after, route.cooldown_seconds)
        if self.failure is not None:
            log.warning("target %s: %s (%s)", self.target.model, outcome, self.failure.code)

    def begins(self) -> None:
        """Its first token is there: it answers, and how soon is known."""
        if self._first is None:
            now = self._clock()
            self._first = now - self._began
            self._live.health = self._live.health.answered(now, self._first)

    def tells(self) -> None:
        """From now on a part of its answer is with the client."""
        self.told = True
        self.course.answered = self.target.model
        self.course.trail.says(self.target.model)

    def _outcome(self, kind: type[BaseException] | None) -> Outcome:
        if self.failure is not None:
            return "broken-off" if self.told else self.failure.fault or "final"
        if kind is None:
            return "ok"
        return "final" if issubclass(kind, Exception) else "left"


async def _told(
    trial: Trial, source: AsyncGenerator[Event, None], stop: asyncio.Event,
) -> AsyncGenerator[Event, None]:
    """What is told of the events of one run: nothing until its first token is there in time, and of an answer that is
    wanted whole, nothing until it is. Why it failed is left in `trial.failure`."""
    seconds, whole = trial.target.first_token_seconds, trial.course.whole
    too_late = asyncio.Event()
    timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, too_late.set)
    held: list[Event] = []
    begun = ended = False
    try:
        async with contextlib.aclosing(source if timer is None else until_set(source, too_late)) as events:
            async for event in events:
                trial.failure = _failure(event, begun, trial.told, stop)
                if trial.failure is not None:
                    return
                if not begun and _answers(event):
                    if too_late.is_set():
                        break
                    begun = True
                    trial.begins()
                    if timer is not None:
                        timer.cancel()
                ended = isinstance(event, Finished)
                held.append(event)
                if begun and (ended or not whole):
                    trial.tells()
                    for one in held:
                        yield one
                    held.clear()
    except RateLimited:
        raise
    except DiptychError as error:
        trial.failure = failure_of_error(error)
    finally:
        if timer is not None:
            timer.cancel()
    if trial.failure is None and not ended:
        trial.failure = late(trial.target) if too_late.is_set() and not begun else ENDED_EARLY


def late(target: RouteTarget) -> Failure:
    words = f"no first token came within {target.first_token_seconds:g} s"
    return Failure("timeout", words, 504, "first_token_timeout")


def _failure(event: Event, begun: bool, told: bool, stop: asyncio.Event) -> Failure | None:
    """What this event means for the choice of a target; None where it is part of an answer."""
    if isinstance(event, Failed):
        return failure_of(event)
    if isinstance(event, Finished) and not told and not stop.is_set():
        if event.reason == "cancelled":
            return UNLOADED
        if event.reason == "content_filter" and not begun:
            return FILTERED
    return None


def _answers(event: Event) -> bool:
    """Whether this is a piece of an answer."""
    if isinstance(event, TokenDelta):
        return bool(event.text or event.logprobs)
    return isinstance(event, ReasoningDelta | ToolCallDelta | Data | Finished)
