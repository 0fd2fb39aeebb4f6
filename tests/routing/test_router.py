"""The router over runs that are made here: what is told, in which order, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from diptych.core.errors import InvalidRequest, RateLimited, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics, Started, TokenDelta
from diptych.core.routes import Route
from diptych.routing.faults import unfit
from diptych.routing.router import Course, Router
from diptych.routing.trail import Trail

pytestmark = pytest.mark.anyio
OUT = Failed(message="gone", status=503, code="upstream_unreachable")
WRONG = Failed(message="temperature is bad", status=400, code="invalid_value", param="temperature")
LONG = Failed(message="too long", status=400, code="context_length_exceeded")
DONE = Finished()
Step = Event | Exception | float
"""What a run does next: an event, an error, or so many seconds of silence."""


def text(word: str) -> TokenDelta:
    return TokenDelta(text=word)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Studio:
    """A router, and models that do as they are told; `asked` are those that were begun."""

    def __init__(self, route: dict[str, Any], **runs: list[Step]) -> None:
        self.clock, self.runs, self.asked, self.closed = Clock(), runs, list[str](), list[str]()
        self.router = Router({"r": Route.model_validate(route)}, self.clock, lambda: 0.5)
        self.trail = Trail()

    async def begin(self, model: str) -> AsyncGenerator[Event, None]:
        self.asked.append(model)
        try:
            yield Started(attempt=1)
            for step in self.runs[model]:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed.append(model)

    def course(self, whole: bool = False, others: tuple[str, ...] = ()) -> Course:
        self.trail = Trail()
        found = self.router.course("r", others, self.trail, whole=whole)
        assert found is not None
        return found

    async def told(self, whole: bool = False) -> list[Event]:
        course, stop = self.course(whole), asyncio.Event()
        return [event async for event in self.router.stream(course, self.begin, stop)
                if not isinstance(event, Started)]


def words(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


async def test_the_first_that_answers_is_the_only_one_that_is_heard() -> None:
    studio = Studio({"targets": ["a", "b", "c"]}, a=[Unavailable("x")], b=[text("Hi"), DONE], c=[text("no"), DONE])
    assert await studio.told() == [text("Hi"), DONE]
    assert studio.asked == ["a", "b"] == studio.closed
    assert [(one.model, one.outcome) for one in studio.trail.attempts] == [("a", "outage"), ("b", "ok")]
    assert studio.trail.answered == ["b"]
    assert dict(studio.trail.headers())[b"x-diptych-attempts"] == b"a;outage, b;ok"
    # The first one is left alone now, and tried again after its cooldown.
    assert (await studio.told())[-1] == DONE and studio.asked == ["a", "b", "b"]
    assert studio.trail.attempts[0].outcome == "cooling"
    studio.clock.now, studio.runs["a"] = 31.0, [text("back"), DONE]
    assert words(await studio.told()) == "back"
    assert studio.router.state("a")[1] == "ready"


@pytest.mark.parametrize("ending", [OUT, Unavailable("gone"), None])
async def test_a_told_answer_is_never_taken_up_by_another(ending: Step | None) -> None:
    rest = [] if ending is None else [ending]
    studio = Studio({"targets": ["a", "b"]}, a=[text("One "), text("two"), *rest], b=[text("again"), DONE])
    events = await studio.told()
    assert words(events) == "One two" and studio.asked == ["a"]
    last = events[-1]
    assert isinstance(last, Failed) and last.status >= 500 and "not continued" in last.message
    assert studio.trail.attempts[0].outcome == "broken-off"


@pytest.mark.parametrize("ending", [OUT, Unavailable("gone"), None, Finished(reason="cancelled")])
async def test_an_answer_that_is_wanted_whole_may_begin_again(ending: Step | None) -> None:
    """Nothing of the first one was told: it is not in the answer."""
    rest = [] if ending is None else [ending]
    studio = Studio({"targets": ["a", "b"]}, a=[text("One "), text("two"), *rest],
                    b=[text("again"), Metrics(values={}), DONE])
    events = await studio.told(whole=True)
    assert words(events) == "again" and events[-1] == DONE and studio.trail.answered == ["b"]


async def test_faults_of_the_request_are_told_at_once() -> None:
    studio = Studio({"targets": ["a", "b"]}, a=[WRONG], b=[text("no"), DONE])
    assert await studio.told() == [WRONG] and studio.asked == ["a"]
    assert studio.router.state("a")[1] == "ready"
    limited = Studio({"targets": ["a", "b"]}, a=[RateLimited("too fast", retry_after=3)], b=[DONE])
    with pytest.raises(RateLimited):
        await limited.told()
    assert limited.asked == ["a"] and limited.router.state("a")[1] == "ready"


async def test_refusals_go_on_but_do_not_cool() -> None:
    studio = Studio({"targets": ["a", "b"]}, a=[LONG], b=[text("Hi"), DONE])
    assert words(await studio.told()) == "Hi" and studio.router.state("a")[1] == "ready"
    studio.runs["a"] = [Finished(reason="content_filter")]
    assert words(await studio.told()) == "Hi"
    studio.runs |= {"a": [LONG], "b": [Failed(message="b says", status=400, code="insufficient_memory")]}
    assert await studio.told() == [LONG]
    only = Studio({"targets": ["a", "b"], "fallback_on": ["outage"]}, a=[LONG], b=[text("Hi"), DONE])
    assert await only.told() == [LONG]


async def test_the_first_token_has_its_time() -> None:
    route = {"targets": [{"model": "a", "first_token_seconds": 0.05}, "b"]}
    studio = Studio(route, a=[Metrics(values={}), text(""), 30.0, text("late"), DONE], b=[text("Hi"), DONE])
    assert await asyncio.wait_for(studio.told(), 5) == [text("Hi"), DONE]
    assert studio.closed == ["a", "b"] and studio.trail.attempts[0].outcome == "timeout"
    slow = Studio(route, a=[text("I "), 0.2, text("think"), DONE], b=[])
    assert words(await slow.told()) == "I think" and slow.asked == ["a"]


async def test_nobody_answers() -> None:
    studio = Studio({"targets": ["a", "b"]}, a=[OUT], b=[Unavailable("no room here")])
    last = (await studio.told())[-1]
    assert isinstance(last, Failed) and (last.status, last.code) == (503, "route_failed")
    assert "gone" in last.message and "no room here" in last.message
    again = (await studio.told())[-1]
    assert studio.asked == ["a", "b"] and isinstance(again, Failed) and "30 s more" in again.message


async def test_one_probe_at_a_time_and_a_client_that_leaves_counts_for_nothing() -> None:
    studio = Studio({"targets": ["a"], "cooldown_seconds": 5}, a=[OUT])
    await studio.told()
    studio.clock.now, studio.runs["a"] = 6.0, [30.0, DONE]
    probe = asyncio.create_task(studio.told())
    await asyncio.sleep(0.02)
    assert studio.router.state("a")[1] == "probing"
    assert "another request" in (await studio.told())[-1].message  # type: ignore[attr-defined]
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert studio.router.state("a")[1] == "half-open" and studio.router.live("a").counts["left"] == 1


async def test_unfit_targets_are_not_asked() -> None:
    studio = Studio({"targets": ["a", "b"]}, b=[text("Hi"), DONE])
    course = studio.course()
    course.drop("a", unfit(InvalidRequest("a has no eyes", param="messages[0]")))
    stream = studio.router.stream(course, studio.begin, asyncio.Event())
    assert words([event async for event in stream]) == "Hi" and studio.asked == ["b"]


async def test_values_come_from_one_target() -> None:
    studio = Studio({"targets": [{"model": "a", "first_token_seconds": 0.05}, "b", "c"]})

    async def work(model: str) -> str:
        studio.asked.append(model)
        if model == "a":
            await asyncio.sleep(30)
        if model == "b":
            raise Unavailable("down")
        return model

    course = studio.course()
    assert await studio.router.value(course, work) == "c" == course.answered
    assert [attempt.outcome for attempt in studio.trail.attempts] == ["timeout", "outage", "ok"]

    async def wrong(model: str) -> str:
        studio.asked.append(model)
        raise InvalidRequest("input is empty", param="input")

    studio.clock.now, studio.asked = 60.0, []
    with pytest.raises(InvalidRequest, match="input is empty"):
        await studio.router.value(studio.course(), wrong)
    assert studio.asked == ["a"]


def test_lists_of_models_may_hold_routes_and_repeat_nothing() -> None:
    router = Router({"r": Route.model_validate({"targets": ["b", {"model": "c", "first_token_seconds": 2}]})})
    assert router.course("a", (), Trail()) is None
    course = router.course("a", ("r", "b", "a", "d"), Trail())
    assert course is not None and [target.model for target in course.targets] == ["a", "b", "c", "d"]
    assert course.targets[2].first_token_seconds == 2


def test_all_runs_of_one_request_begin_with_the_same_target() -> None:
    draws = iter([0.1, 0.9, 0.9, 0.1] * 9)
    route = Route.model_validate({"targets": ["a", "b"], "strategy": "weighted"})
    router, trail = Router({"r": route}, draw=lambda: next(draws)), Trail()

    def first(trail: Trail) -> str:
        course = router.course("r", (), trail)
        assert course is not None
        return course.targets[0].model

    assert {first(trail) for _ in range(4)} == {"a"} and {first(Trail()) for _ in range(2)} == {"a", "b"}
