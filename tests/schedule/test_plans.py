"""The pure parts: who may hold memory, and who is served next."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.schedule.arbiter import Plan, Request, Resident, plan
from diptych.schedule.fairness import order_heads, serving_order

GB = 2**30


def test_least_recently_used_idle_models_make_room() -> None:
    residents = [Resident(model="old", bytes=4 * GB, last_used=1), Resident(model="new", bytes=4 * GB, last_used=2),
                 Resident(model="busy", bytes=4 * GB, last_used=0, busy=True)]
    assert plan(Request(model="x", bytes=2 * GB), residents, 14 * GB) == Plan(mode="load")
    assert plan(Request(model="x", bytes=4 * GB), residents, 12 * GB) == Plan(mode="load", evict=("old",))
    assert plan(Request(model="x", bytes=8 * GB), residents, 12 * GB) == Plan(mode="load", evict=("old", "new"))
    assert plan(Request(model="x", bytes=9 * GB), residents, 12 * GB) == Plan(mode="wait", short=GB)
    assert plan(Request(model="x", bytes=13 * GB), residents, 12 * GB) == Plan(mode="refuse", short=GB)
    assert plan(Request(model="old", bytes=99 * GB), residents, 12 * GB) == Plan(mode="resident")


def test_a_pinned_model_never_goes() -> None:
    residents = [Resident(model="p", bytes=4 * GB, pinned=True)]
    assert plan(Request(model="x", bytes=9 * GB), residents, 12 * GB).mode == "refuse"


def test_no_more_is_evicted_than_needed() -> None:
    residents = [Resident(model="small", bytes=1 * GB, last_used=1), Resident(model="large", bytes=8 * GB, last_used=2)]
    assert plan(Request(model="x", bytes=8 * GB), residents, 9 * GB) == Plan(mode="load", evict=("large",))


residents_strategy = st.lists(st.builds(
    Resident, model=st.uuids().map(str), bytes=st.integers(0, 50), busy=st.booleans(), pinned=st.booleans(),
    last_used=st.floats(0, 100)), max_size=8, unique_by=lambda r: r.model)


@given(residents_strategy, st.integers(0, 120), st.integers(1, 100))
def test_a_plan_keeps_within_the_budget(residents: list[Resident], size: int, budget: int) -> None:
    made = plan(Request(model="x", bytes=size), residents, budget)
    by_name = {resident.model: resident for resident in residents}
    assert not any(by_name[model].busy or by_name[model].pinned for model in made.evict)
    left = sum(resident.bytes for resident in residents if resident.model not in made.evict)
    if made.mode == "load":
        assert left + size <= budget
        for model in made.evict:
            assert left + size + by_name[model].bytes > budget, "it need not have gone"
    elif made.mode == "wait":
        movable = sum(r.bytes for r in residents if not r.busy and not r.pinned)
        assert sum(r.bytes for r in residents) - movable + size > budget
    else:
        assert made.mode == "refuse" and size + sum(r.bytes for r in residents if r.pinned) > budget


def job(number: int, caller: str, priority: Priority = Priority.INTERACTIVE) -> Job:
    return Job(id=f"{number:04d}", state=JobState.QUEUED, priority=priority, caller=caller, attempts=0, max_attempts=3,
               timeout_seconds=1, created_at=datetime.now(timezone.utc), spec=ImageSpec(prompt="x"))


def test_callers_take_turns_and_classes_go_first() -> None:
    queued = [job(1, "ann"), job(2, "ann"), job(3, "ann"), job(4, "bob"), job(5, "ann", Priority.TRAINING),
              job(6, "eve", Priority.BATCH), job(7, "bob")]
    assert [j.id for j in serving_order(queued, {})] == ["0001", "0004", "0002", "0007", "0003", "0006", "0005"]
    assert [j.id for j in serving_order(queued, {"ann": 9, "bob": 8})][:2] == ["0004", "0001"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(list(Priority))), max_size=30))
def test_the_order_holds_every_job_once_and_agrees_with_who_is_next(callers: list[tuple[str, Priority]]) -> None:
    queued = [job(number, caller, priority) for number, (caller, priority) in enumerate(callers)]
    order = serving_order(queued, {"a": 1})
    assert sorted(j.id for j in order) == [j.id for j in queued]
    if queued:
        assert order_heads(queued, {"a": 1})[0] == order[0]
