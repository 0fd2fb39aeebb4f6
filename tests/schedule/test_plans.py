"""The pure part of fairness: who is served next."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.schedule.fairness import order_heads, serving_order


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
