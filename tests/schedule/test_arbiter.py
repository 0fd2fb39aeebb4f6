"""Plans: whom they end, where they place, when they wait and when they refuse. Simulated machines, random requests."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.schedule.arbiter import Placement, Plan, Request, Resident, plan
from diptych.schedule.leases import Lease, Leases, beyond, bytes_by_device, growth, largest
from diptych.schedule.traces import TraceWriter, read_traces

GB = 2**30
TRACE = Path(__file__).parent / "plans.jsonl"


def on(device: str = "cpu", **kinds: int) -> Leases:
    return tuple(Lease(device=device, kind=kind, bytes=size) for kind, size in kinds.items())  # type: ignore[arg-type]


def at(device: str = "cpu", rank: int = 0, **kinds: int) -> Placement:
    return Placement(devices=(device,), leases=on(device, **kinds), rank=rank)


def resident(model: str, size: int, device: str = "cpu", **state: object) -> Resident:
    return Resident(model=model, leases=on(device, weights=size), devices=(device,), **state)  # type: ignore[arg-type]


def ask(size: int, model: str = "x") -> Request:
    return Request(model=model, placements=(at(weights=size),))


def test_least_recently_used_idle_models_make_room() -> None:
    residents = [resident("old", 4 * GB, last_used=1), resident("new", 4 * GB, last_used=2),
                 resident("busy", 4 * GB, last_used=0, busy=True)]

    def made(size: int, budget: int) -> tuple[str, tuple[str, ...], int]:
        found = plan(ask(size), residents, {"cpu": budget})
        return found.mode, found.evict, found.short

    assert made(2 * GB, 14 * GB) == ("load", (), 0)
    assert made(4 * GB, 12 * GB) == ("load", ("old",), 0)
    assert made(8 * GB, 12 * GB) == ("load", ("old", "new"), 0)
    assert made(9 * GB, 12 * GB) == ("wait", (), GB)
    assert made(13 * GB, 12 * GB) == ("refuse", (), GB)
    assert plan(ask(99 * GB, "old"), [resident("old", 99 * GB)], {"cpu": GB}) == Plan(mode="resident")


def test_a_refusal_has_the_numbers() -> None:
    made = plan(ask(9 * GB), [resident("p", 4 * GB, pinned=True)], {"cpu": 12 * GB})
    assert (made.mode, made.device, made.need, made.short) == ("refuse", "cpu", 9 * GB, GB)


def test_no_more_is_evicted_than_needed() -> None:
    residents = [resident("small", GB, last_used=1), resident("large", 8 * GB, last_used=2)]
    assert plan(ask(8 * GB), residents, {"cpu": 9 * GB}).evict == ("large",)


def test_what_is_ending_counts_until_it_has_gone() -> None:
    ending = resident("x", 8 * GB, ending=True)
    assert plan(ask(8 * GB), [ending], {"cpu": 12 * GB}).mode == "wait"
    assert plan(ask(8 * GB), [ending], {"cpu": 16 * GB}).mode == "load"
    assert plan(ask(8 * GB), [], {"cpu": 12 * GB}).mode == "load"


def test_the_preferred_device_is_waited_for_and_its_like_is_taken() -> None:
    budget = {"cuda:0": 8, "cuda:1": 8, "cpu": 100}
    request = Request(model="x", placements=(
        at("cuda:0", weights=6), at("cuda:1", weights=6), at("cpu", rank=1, weights=6)))

    def placed(*residents: Resident) -> tuple[str, tuple[str, ...]]:
        made = plan(request, residents, budget)
        return made.mode, made.placement.devices if made.placement else ()

    assert placed() == ("load", ("cuda:0",))
    idle, busy = resident("a", 6, "cuda:0"), resident("b", 6, "cuda:0", busy=True)
    other = resident("c", 6, "cuda:1", busy=True)
    assert placed(idle) == ("load", ("cuda:1",)), "room as things are goes before ending another"
    assert placed(idle, other) == ("load", ("cuda:0",))
    assert placed(busy, other)[0] == "wait", "the processor would be a hundred times slower"
    large = Request(model="x", placements=(at("cuda:0", weights=9), at("cpu", rank=1, weights=9)))
    assert plan(large, [], budget).placement == large.placements[1]
    assert plan(ask(1).model_copy(update={"placements": (at("xpu:0", weights=1),)}), [], budget).mode == "refuse"


def test_a_smaller_batch_is_taken_before_another_model_has_to_go() -> None:
    request = Request(model="x", placements=tuple(at(weights=4, activations=size) for size in (8, 4, 2, 1)))
    assert plan(request, [], {"cpu": 12}).placement == request.placements[0]
    assert plan(request, [resident("idle", 5)], {"cpu": 12}).placement == request.placements[2]
    made = plan(request, [resident("idle", 8)], {"cpu": 12})
    assert (made.evict, made.placement) == (("idle",), request.placements[0])


def test_a_larger_picture_grows_the_lease_of_a_busy_model() -> None:
    mine = Resident(model="x", leases=on(weights=4, activations=2), busy=True)
    request = Request(model="x", placements=(at(weights=4, activations=6),))
    made = plan(request, [mine, resident("idle", 4)], {"cpu": 12})
    assert (made.mode, made.evict) == ("grow", ("idle",))
    assert made.placement is not None and bytes_by_device(made.placement.leases) == {"cpu": 10}
    assert plan(request, [mine, resident("busy", 4, busy=True)], {"cpu": 12}).mode == "wait"
    assert plan(request, [mine], {"cpu": 9}).mode == "refuse"
    assert plan(Request(model="x", placements=(at(weights=4, activations=1),)), [mine], {"cpu": 9}).mode == "resident"


def test_leases_are_added_up_by_device() -> None:
    one, two = on(weights=4, activations=2), on(weights=3, activations=5) + on("cuda:0", weights=7)
    assert bytes_by_device(largest(one, two)) == {"cpu": 9, "cuda:0": 7}
    assert bytes_by_device(growth(one, two)) == {"cpu": 3, "cuda:0": 7}
    assert bytes_by_device(beyond(two, {"cpu": 6})) == {"cpu": 2, "cuda:0": 7}


residents_strategy = st.lists(st.builds(
    Resident, model=st.uuids().map(str), busy=st.booleans(), pinned=st.booleans(), ending=st.booleans(),
    last_used=st.floats(0, 100), leases=st.tuples(st.builds(
        Lease, device=st.sampled_from(["cpu", "cuda:0"]), kind=st.just("weights"), bytes=st.integers(0, 50)))),
    max_size=8, unique_by=lambda one: one.model)


@given(residents_strategy, st.integers(0, 120), st.integers(1, 100))
def test_a_plan_keeps_within_the_budget(residents: list[Resident], size: int, total: int) -> None:
    budget = {"cpu": total, "cuda:0": total}
    made = plan(ask(size), residents, budget)
    by_name = {one.model: one for one in residents}
    assert all(by_name[model].movable for model in made.evict)
    here = {one.model: bytes_by_device(one.leases).get("cpu", 0) for one in residents}
    left = sum(bytes for model, bytes in here.items() if model not in made.evict)
    if made.mode == "load":
        assert not size or left + size <= total
        for model in made.evict:
            assert left + size + here[model] > total, "it need not have gone"
    elif made.mode == "wait":
        assert sum(here.values()) - sum(here[one.model] for one in residents if one.movable) + size > total
    else:
        pinned = sum(here[one.model] for one in residents if one.pinned and not one.ending)
        assert made.mode == "refuse" and size + pinned > total and made.short == size + pinned - total


@dataclass
class Process:
    """A model in the simulation: `ends` ticks until it is loaded, idle or gone."""

    model: str
    placement: Placement
    awaits: list[Process] = field(default_factory=list)
    loading: bool = True
    ending: bool = False
    users: int = 0
    pinned: bool = False
    last_used: int = 0
    ticks: int = 1

    def counted(self) -> Leases:
        self.awaits = [one for one in self.awaits if one.ending]
        return beyond(self.placement.leases, bytes_by_device(
            lease for one in self.awaits for lease in one.placement.leases))

    def resident(self) -> Resident:
        return Resident(
            model=self.model, leases=self.counted(), devices=self.placement.devices,
            busy=self.loading or self.users > 0, pinned=self.pinned, ending=self.ending, last_used=self.last_used)


class Machine:
    """Devices, processes that take time to load and to end, and a queue of requests; ticks instead of seconds."""

    PATIENCE = 20

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.budget = {"cpu": self.random.randint(40, 120), "cuda:0": self.random.randint(20, 80)}
        self.models = {f"m{number}": self._ways() for number in range(12)}
        self.processes: list[Process] = []
        self.queue: list[tuple[str, int]] = []
        self.requests = {model: Request(model=model, placements=ways) for model, ways in self.models.items()}
        self.plans: dict[str, Plan] = {}
        """Of the machine as it is: a plan is a function of that."""
        self.now = self.served = self.refused = self.longest = 0

    def _ways(self) -> tuple[Placement, ...]:
        size = self.random.randint(1, 60)
        host = at("cpu", weights=size, activations=self.random.randint(0, 30))
        if self.random.random() < 0.5:
            return (host,)
        leases = on("cuda:0", weights=size) + on(runtime=self.random.randint(0, 9))
        return (Placement(devices=("cuda:0",), leases=leases), host.model_copy(update={"rank": 1}))

    def check(self) -> None:
        used: Counter[str] = Counter()
        real: Counter[str] = Counter()
        for process in self.processes:
            used.update(bytes_by_device(process.counted()))
            if not process.loading or not any(one.ending for one in process.awaits):
                real.update(bytes_by_device(process.placement.leases))
        for device in {*used, *real}:
            assert used[device] <= self.budget[device], f"leases of {device}: {used[device]} > {self.budget[device]}"
            assert real[device] <= self.budget[device], f"memory of {device}: {real[device]} > {self.budget[device]}"

    def step(self) -> None:
        self.now += 1
        for process in list(self.processes):
            self._advance(process)
        waiting = list(self.queue)
        # Whoever has waited for long goes first, and those behind it begin nothing.
        overdue = any(self.now - since > self.PATIENCE for _, since in waiting)
        for model, since in waiting:
            if self._serve(model, since):
                self.queue.remove((model, since))
            elif overdue:
                break
        self.check()

    def _advance(self, process: Process) -> None:
        if process.loading and any(one.ending for one in process.awaits):
            return
        process.ticks -= 1
        if process.ticks > 0 or not (process.ending or process.loading or process.users):
            return
        self.plans.clear()
        if process.ending:
            process.ending = False
            self.processes.remove(process)
        elif process.loading:
            process.loading = False
        elif process.users:
            process.users -= 1
            process.ticks = self.random.randint(1, 4)

    def _serve(self, model: str, since: int) -> bool:
        if model not in self.plans:
            residents = [one.resident() for one in self.processes]
            self.plans[model] = plan(self.requests[model], residents, self.budget)
        made = self.plans[model]
        if made.mode == "refuse":
            self.refused += 1
            return True
        if made.mode == "wait":
            return False
        mine = next((one for one in self.processes if one.model == model and not one.ending), None)
        if made.mode == "load" and made.placement is not None:
            self.plans.clear()
            evicted = [one for one in self.processes if one.model in made.evict and not one.ending]
            for one in evicted:
                one.ending, one.ticks = True, self.random.randint(1, 3)
            self.processes.append(Process(
                model, made.placement, evicted, pinned=self.random.random() < 0.01, last_used=self.now,
                ticks=self.random.randint(1, 4)))
        if mine is None or mine.loading:
            return False
        self.plans.clear()
        if not mine.users:
            mine.ticks = self.random.randint(1, 4)
        mine.users, mine.last_used = mine.users + 1, self.now
        self.served += 1
        self.longest = max(self.longest, self.now - since)
        return True


def test_100_000_requests_on_simulated_machines() -> None:
    """Leases and real memory stay within the budget at every tick, every request comes to its end, and none waits for
    longer than the queue before it explains."""
    asked = done = refused = longest = 0
    for seed in range(100):
        machine = Machine(seed)
        left = 1000
        while left or machine.queue:
            while left and len(machine.queue) < 8:
                machine.queue.append((machine.random.choice(list(machine.models)), machine.now))
                asked, left = asked + 1, left - 1
            machine.step()
            assert machine.now < 20_000, f"seed {seed}: {machine.queue} never got their turn"
        done, refused = done + machine.served, refused + machine.refused
        longest = max(longest, machine.longest)
    assert asked == done + refused == 100_000
    assert done > 50_000
    assert longest < 200, "ticks; a load, some work and an end take 1 to 4 each, and at most seven are before one"


def test_recorded_plans_replay() -> None:
    """A trace of a server at work: chat and pictures within a small budget, an unload while busy, a pin, a refusal."""
    traces = list(read_traces(TRACE))
    assert {trace.plan.mode for trace in traces} >= {"load", "resident", "wait", "refuse"}
    for number, trace in enumerate(traces, 1):
        assert plan(trace.request, trace.residents, trace.budget) == trace.plan, f"line {number}"


def test_a_trace_is_written_as_it_happens(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "trace.jsonl")
    request, residents, budget = ask(5), [resident("idle", 6)], {"cpu": 10}
    made = plan(request, residents, budget)
    writer.write(request, residents, budget, made)
    writer.write(request, residents, budget, made)
    writer.write(request, [], budget, plan(request, [], budget))
    first, second = read_traces(tmp_path / "trace.jsonl")
    assert (first.request, list(first.residents), first.budget, first.plan) == (request, residents, budget, made)
    assert second.plan.evict == ()
    TraceWriter(tmp_path / "nowhere" / "trace.jsonl").write(request, [], budget, made)  # told in the log, no fault


@pytest.mark.parametrize("line", ['{"request": 1}', "no JSON"])
def test_a_line_that_is_no_trace_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(ValueError):
        list(read_traces(tmp_path / "bad.jsonl"))
