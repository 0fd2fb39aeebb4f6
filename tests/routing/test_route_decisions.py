"""The pure part of routing: order, cooldowns and kinds of faults."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import InvalidRequest, NotFound, RateLimited, Unavailable
from diptych.core.events import Failed
from diptych.core.routes import Route
from diptych.routing.decide import MOST_DOUBLINGS, STALE_SECONDS, Candidate, Health, order
from diptych.routing.faults import Failure, broken_off, failure_of, failure_of_error, together, unfit

STRATEGIES = ("order", "weighted", "least-busy", "latency")
CANDIDATES = st.lists(st.builds(
    Candidate, weight=st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e6]), busy=st.integers(0, 5),
    latency=st.none() | st.floats(0.0, 100.0)), min_size=1, max_size=8)
DRAW = st.floats(0.0, 1.0, exclude_max=True)


@given(st.sampled_from(STRATEGIES), CANDIDATES, st.data())
def test_every_target_is_asked_once_and_those_without_weight_last(
    strategy: str, candidates: list[Candidate], data: st.DataObject,
) -> None:
    draws = data.draw(st.lists(DRAW, min_size=len(candidates), max_size=len(candidates)))
    made = order(strategy, candidates, draws)  # type: ignore[arg-type]
    assert sorted(made) == list(range(len(candidates)))
    if strategy == "order":
        assert made == sorted(made)
        return
    weightless = [candidates[index].weight == 0 for index in made]
    assert weightless == sorted(weightless)
    live = [candidates[index] for index in made if candidates[index].weight > 0]
    if strategy == "least-busy":
        loads = [one.busy / one.weight for one in live]
        assert loads == sorted(loads)
    if strategy == "latency":
        known = [one.latency for one in live if one.latency is not None]
        assert known == sorted(known)


def test_weights_are_the_shares_of_the_first_place() -> None:
    chance, weights, rounds = random.Random(7), [1.0, 2.0, 5.0, 0.0], 20_000
    firsts, seconds = [0] * 4, [0] * 4
    for _ in range(rounds):
        made = order("weighted", [Candidate(weight) for weight in weights], [chance.random() for _ in weights])
        firsts[made[0]] += 1
        if made[0] == 2:
            seconds[made[1]] += 1
    for weight, count in zip(weights, firsts, strict=True):
        share = weight / sum(weights)
        spread = (share * (1 - share) / rounds) ** 0.5
        assert abs(count / rounds - share) <= 5 * spread, firsts
    # Where the heaviest fails, the others stand in by their own weights.
    assert abs(seconds[0] / sum(seconds) - 1 / 3) < 5 * (2 / 9 / sum(seconds)) ** 0.5


def test_equals_share_the_work_of_the_least_busy() -> None:
    chance = random.Random(3)
    firsts = [order("least-busy", [Candidate(), Candidate(), Candidate(busy=1)],
                    [chance.random() for _ in range(3)])[0] for _ in range(2000)]
    assert firsts.count(2) == 0 and 850 < firsts.count(0) < 1150
    # Twice the weight carries twice as much.
    assert order("least-busy", [Candidate(1.0, 2), Candidate(2.0, 3)], [0.1, 0.9]) == [1, 0]


def test_one_request_finds_out_how_quick_a_target_is() -> None:
    measured, unknown = Candidate(latency=0.5), Candidate()
    assert order("latency", [measured, unknown], [0, 0]) == [1, 0]
    assert order("latency", [measured, Candidate(busy=1)], [0, 0]) == [0, 1]
    assert order("latency", [measured, Candidate(latency=0.1)], [0, 0]) == [1, 0]


EVENTS = st.lists(st.tuples(st.sampled_from(["try", "ok", "fail", "left"]), st.floats(0.0, 100.0)), max_size=60)


@given(EVENTS, st.integers(1, 4), st.floats(0.1, 50.0))
def test_whatever_happens_a_target_is_tried_again_in_the_end(
    steps: list[tuple[str, float]], after: int, seconds: float,
) -> None:
    """One probe at a time, cooldowns of at most 16 times their length, and an answer ends everything."""
    health, now, open_tries = Health(), 0.0, 0
    for what, later in steps:
        now += later
        if what == "try" and health.may_try(now):
            probing = health.state(now) == "half-open"
            health = health.tried(now)
            open_tries += 1
            assert not probing or not health.may_try(now)
        elif what != "try" and open_tries:
            open_tries -= 1
            health = health.answered(now, 0.1) if what == "ok" else \
                health.left() if what == "left" else health.failed(now, after, seconds)
            if what == "ok":
                assert health.state(now) == "ready" and health.failures == 0
        assert health.until is None or health.until - now <= seconds * 2**MOST_DOUBLINGS + 1e-6
    for _ in range(open_tries):
        health = health.left()
    assert health.may_try(now + seconds * 2**MOST_DOUBLINGS + 1e-6)


def test_a_cooldown_from_begin_to_end() -> None:
    health = Health().failed(10.0, after=2, seconds=30.0)
    assert health.state(10.0) == "ready"
    health = health.failed(11.0, 2, 30.0)
    assert (health.state(40.9), health.state(41.0)) == ("cooling", "half-open")
    probed = health.tried(42.0)
    assert probed.state(42.0) == "probing" and not probed.may_try(42.0)
    again = probed.failed(43.0, 2, 30.0)  # one failure is enough for a probe, and it cools for twice as long
    assert (again.state(102.9), again.state(103.0)) == ("cooling", "half-open")
    assert again.tried(103.0).answered(104.0, None).state(104.0) == "ready"
    assert probed.left().may_try(42.0)  # its client went: the next one finds out
    assert Health().failed(0.0, 1, 0.0).may_try(0.0)  # without a cooldown it is asked again at once
    # What was asked before the cooldown began does not make it longer.
    assert health.failed(12.0, 2, 30.0).until == health.until


def test_old_measurements_are_forgotten() -> None:
    health = Health().answered(0.0, 1.0)
    assert health.latency(STALE_SECONDS) == 1.0 and health.latency(STALE_SECONDS + 1) is None
    assert 1.0 < (health.answered(1.0, 2.0).latency(1.0) or 0) < 2.0
    assert health.answered(STALE_SECONDS + 1, 5.0).latency(STALE_SECONDS + 1) == 5.0


@pytest.mark.parametrize(("status", "code", "fault"), [
    (503, "upstream_unreachable", "outage"), (502, "upstream_auth", "outage"), (503, "runner_died", "outage"),
    (404, "model_not_found", "outage"), (404, "upstream_missing", "outage"), (502, "upstream_failed", "outage"),
    (429, "upstream_overloaded", "overload"), (503, "upstream_overloaded", "overload"), (504, "timeout", "timeout"),
    (504, "upstream_timeout", "timeout"), (400, "context_length_exceeded", "refusal"),
    (400, "insufficient_memory", "refusal"), (400, "upstream_content", "refusal"), (413, "too_large", "refusal"),
    (422, "invalid_output", "refusal"), (400, "unsupported_value", "refusal"), (400, "no_vision", "refusal"),
    (400, "upstream_refused", None), (400, "invalid_value", None), (422, "upstream_refused", None),
    (503, "server_ending", None)])
def test_kinds_of_faults(status: int, code: str, fault: str | None) -> None:
    assert failure_of(Failed(message="x", status=status, code=code)).fault == fault


def test_the_caller_s_own_limit_is_no_fault_of_a_target() -> None:
    assert failure_of_error(RateLimited("x", retry_after=1)).fault is None
    assert failure_of_error(Unavailable("x")).fault == "outage"
    assert unfit(InvalidRequest("x")).fault == "refusal"
    assert unfit(NotFound("x", code="model_not_found")).fault == "outage"


def test_what_is_told_when_nobody_answers() -> None:
    refused, full = Failure("refusal", "too long", 400, "c", "p"), Failure("overload", "full", 429)
    slow, gone = Failure("timeout", "late", 504), Failure("outage", "gone", 503, "upstream_unreachable")
    assert together("r", [("a", gone)]) == gone
    assert together("r", [("a", refused), ("b", refused)]) == refused
    assert together("r", [("a", full), ("b", full)]).status == 429
    assert together("r", [("a", slow), ("b", slow)]).status == 504
    mixed = together("r", [("a", refused), ("b", gone)])
    assert (mixed.status, mixed.code) == (503, "route_failed")
    assert "a: too long" in mixed.message and "b: gone" in mixed.message and "'r'" in mixed.message
    assert broken_off(full).status == 503 and "full" in broken_off(full).message
    error = refused.error()
    assert (error.status, error.code, error.param) == (400, "c", "p") and full.error().status == 429


@pytest.mark.parametrize("values", [
    {"targets": []}, {"targets": ["a", "a"]}, {"targets": ["a", {"model": "a", "weight": 2}]}, {"targets": "a"},
    {"targets": ["a"], "strategy": "best"}, {"targets": [{"model": "a", "weight": -1}]}, {"targets": [{"name": "a"}]},
    {"targets": ["a"], "cooldown_after": 0}, {"targets": ["a"], "fallback_on": ["rain"]},
    {"targets": [{"model": "a", "first_token_seconds": 0}]}])
def test_routes_that_make_no_sense(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Route.model_validate(values)
