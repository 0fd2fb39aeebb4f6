"""Whose turn it is: weighted turns, places in closed form, loaded models first within a bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from diptych.core.jobs import Priority
from diptych.schedule.fairness import Affinity, Share, Turns, position, sequence

INTERACTIVE, BATCH, TRAINING = Priority.INTERACTIVE, Priority.BATCH, Priority.TRAINING


@dataclass(frozen=True)
class Head:
    id: str
    caller: str
    model: str = "m"
    priority: Priority = INTERACTIVE


def serve(turns: Turns, callers: str, times: int, priority: Priority = INTERACTIVE) -> str:
    """Who is served when all these callers always have jobs."""
    heads = [Head(str(number), caller, priority=priority) for number, caller in enumerate(callers)]
    served = ""
    for _ in range(times):
        next_one = turns.order(heads)[0]
        turns.took(next_one.priority, next_one.caller)
        served += next_one.caller
    return served


def test_turns_follow_the_weights_and_are_spread_out() -> None:
    turns = Turns({"a": 3.0, "b": 1.0}.__getitem__)
    served = serve(turns, "ab", 40)
    assert Counter(served) == {"a": 30, "b": 10}
    assert all(Counter(served[start:start + 4]) == {"a": 3, "b": 1} for start in range(0, 40, 4))


def test_who_was_away_is_not_owed_for_it() -> None:
    turns = Turns()
    serve(turns, "a", 100)
    assert serve(turns, "ab", 10).count("b") in (5, 6)  # next at once, then in turn: not a hundred in a row
    assert serve(turns, "ab", 2)[:1] in "ab"


def test_a_class_has_turns_of_its_own() -> None:
    turns = Turns()
    serve(turns, "a", 50, BATCH)
    assert serve(turns, "ab", 4) == "abab"


def test_classes_go_first_to_last() -> None:
    heads = [Head("1", "a", priority=TRAINING), Head("2", "a", priority=BATCH), Head("3", "a")]
    assert [head.id for head in Turns().order(heads)] == ["3", "2", "1"]


shares = st.lists(
    st.tuples(st.sampled_from(CLASS := [INTERACTIVE, BATCH, TRAINING]), st.sampled_from("abcdef"), st.integers(1, 12),
              st.integers(0, 40), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0])),
    min_size=1, max_size=9, unique_by=lambda item: item[:2])


@given(shares)
def test_places_in_closed_form_are_those_of_the_sequence(drawn: list[tuple[Priority, str, int, int, float]]) -> None:
    """Every job's position, which is computed without walking the queue, is where walking it comes to the job."""
    held = [Share(priority, caller, queued, tag / 4, weight, f"{number:02d}")
            for number, (priority, caller, queued, tag, weight) in enumerate(drawn)]
    order = list(sequence(held))
    assert Counter(order) == {(share.priority, share.caller): share.queued for share in held}
    seen: Counter[tuple[Priority, str]] = Counter()
    for place, who in enumerate(order):
        share = next(one for one in held if (one.priority, one.caller) == who)
        ahead = position(share, seen[who], held)
        assert sum(ahead.values()) == place
        assert {key: number for key, number in ahead.items() if number} == dict(seen)
        seen[who] += 1


def test_the_sequence_is_lazy() -> None:
    share = Share(INTERACTIVE, "a", 10**12, 0.0, 1.0, "1")
    assert len(list(islice(sequence([share]), 5))) == 5


class OneModelFits:
    """A machine with memory for one model: counts how often it changes, by a clock of one second per job."""

    def __init__(self, jobs: int, seconds: float) -> None:
        self.turns, self.affinity = Turns(), Affinity(jobs, seconds)
        self.loaded, self.changes, self.now = "x", 0, 0.0

    def next(self, heads: list[Head]) -> Head:
        costly = {head.model for head in heads} - {self.loaded}
        order = self.turns.order(heads)
        self.affinity.keep(heads, costly)
        job = self.affinity.arrange(order, costly, self.now)[0]
        self.affinity.began(job, order, costly, self.now)
        self.turns.took(job.priority, job.caller)
        self.changes += job.model != self.loaded
        self.loaded, self.now = job.model, self.now + 1
        return job


def test_the_loaded_model_goes_first_and_the_other_waits_no_longer_than_the_bound() -> None:
    machine = OneModelFits(jobs=8, seconds=1e9)
    heads = [Head("1", "ann", "x"), Head("2", "bob", "y")]
    served = "".join(machine.next(heads).model for _ in range(120))
    assert "y" in served
    runs = [len(run) for run in served.replace("xy", "x y").replace("yx", "y x").split()]
    assert max(runs) <= 10  # eight that went before, and the turn in which both are equal
    assert machine.changes <= 120 / 8 + 1  # without affinity: 119


def test_the_bound_holds_in_time_too() -> None:
    machine = OneModelFits(jobs=10**9, seconds=5.0)
    heads = [Head("1", "ann", "x"), Head("2", "bob", "y")]
    served = "".join(machine.next(heads).model for _ in range(60))
    assert max(len(run) for run in served.replace("xy", "x y").replace("yx", "y x").split()) <= 7


def test_affinity_holds_inside_a_class_only() -> None:
    machine = OneModelFits(jobs=8, seconds=60)
    heads = [Head("1", "ann", "x", BATCH), Head("2", "bob", "y")]
    assert [machine.next(heads).model for _ in range(3)] == ["y", "y", "y"]


def test_where_both_models_fit_only_turns_count() -> None:
    affinity, turns = Affinity(), Turns()
    heads = [Head("1", "ann", "x"), Head("2", "bob", "y")]
    served = []
    for _ in range(6):
        job = affinity.arrange(turns.order(heads), set(), 0.0)[0]
        turns.took(job.priority, job.caller)
        served.append(job.caller)
    assert served == ["ann", "bob"] * 3
