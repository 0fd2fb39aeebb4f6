"""What waits is counted, not searched: the counters, heads, ranks and places agree with a search."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from diptych.core.errors import TooLarge, Unavailable
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.schedule.fairness import Turns
from diptych.schedule.outlook import Outlook
from diptych.schedule.speeds import Speeds
from diptych.store.jobs import JobStore

CLASSES = list(Priority)


def submit(store: JobStore, chance: random.Random, limit: int = 10_000) -> Job:
    spec = ImageSpec(prompt="x", model=chance.choice("mn"), width=chance.choice((64, 128)), height=64, seed=1,
                     steps=chance.randint(1, 5), count=chance.randint(1, 3))
    return store.submit(spec, caller=chance.choice("abc"), priority=chance.choice(CLASSES), timeout_seconds=5,
                        max_attempts=2, limit=limit)


def busy(store: JobStore, chance: random.Random, steps: int) -> None:
    """Do this and that with jobs."""
    ids: list[str] = []
    for _ in range(steps):
        what = chance.random()
        if what < 0.5 or not ids:
            ids.append(submit(store, chance).id)
            continue
        id = chance.choice(ids)
        attempts = store.get(id).attempts
        if what < 0.7:
            store.claim(id)
        elif what < 0.8:
            store.requeue(id, attempt=attempts, uncount=chance.random() < 0.5)
        elif what < 0.9:
            store.finish(id, JobState.SUCCEEDED, attempt=attempts)
        elif what < 0.97:
            store.request_cancel(id)
        else:
            store.recover()


def counted(store: JobStore) -> dict[tuple[str, ...], tuple[int, int, int]]:
    return {(line.priority.value, line.caller, line.model, line.shape): (line.queued, line.pictures, line.steps)
            for line in store.lines()}


def searched(store: JobStore) -> dict[tuple[str, ...], tuple[int, int, int]]:
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for job in store.queued():
        spec = job.spec
        key = (job.priority.value, job.caller, spec.model, f"{spec.width}x{spec.height}")
        old = found.get(key, (0, 0, 0))
        found[key] = (old[0] + 1, old[1] + spec.count, old[2] + spec.steps * spec.count)
    return found


def test_the_counters_agree_with_the_jobs_whatever_is_done(store: JobStore) -> None:
    chance = random.Random(7)
    for _ in range(4):
        busy(store, chance, 40)
        assert counted(store) == searched(store)
    assert sum(store.queue_lengths().values()) == len(store.queued()) == store.counts()[JobState.QUEUED]


def test_the_counters_agree_when_many_do_it_at_once(open_store: Callable[[], JobStore]) -> None:
    stores = [open_store() for _ in range(2)]
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(busy, stores[n % 2], random.Random(n), 40) for n in range(6)]:
            done.result()
    assert counted(stores[0]) == searched(stores[0])


def test_counters_that_are_wrong_are_mended(store: JobStore) -> None:
    busy(store, random.Random(3), 60)
    right = counted(store)
    with store.database.write() as connection:
        connection.execute(text("UPDATE queue_lines SET queued = queued + 5, steps = 0"))
        connection.execute(text("DELETE FROM queue_lines WHERE caller = 'a'"))
    assert counted(store) != right
    store.recount()
    assert counted(store) == right


def test_heads_are_those_that_a_search_finds(store: JobStore) -> None:
    busy(store, random.Random(5), 120)
    first: dict[tuple[Priority, str, str], str] = {}
    for job in store.queued():
        first.setdefault((job.priority, job.caller, job.spec.model), job.id)
    assert {(head.priority, head.caller, head.model): head.id for head in store.heads()} == first


def test_places_are_those_of_the_queue(store: JobStore) -> None:
    busy(store, random.Random(11), 150)
    turns, speeds = Turns({"a": 3.0, "b": 1.0, "c": 2.0}.__getitem__), Speeds()
    for model in "mn":
        for shape in ("64x64", "128x64"):
            speeds.learn(model, shape, 1, 0.5)
    turns.took(Priority.BATCH, "a")
    outlook = Outlook(store, turns, speeds, 4, list)
    queue = outlook.queue(10_000)
    assert len(queue) == len(store.queued()) > 30
    places = outlook.places([job.id for job, _, _ in queue])
    assert [places[job.id].position for job, _, _ in queue] == list(range(len(queue)))
    total = sum(job.spec.steps * job.spec.count for job in store.queued()) * 0.5
    last, _, eta = queue[-1]
    assert eta == pytest.approx(total)
    assert places[last.id].eta_seconds == pytest.approx(total, rel=0.05)  # counted by the mean job of each line
    order = [CLASSES.index(job.priority) for job, _, _ in queue]
    assert order == sorted(order)
    assert [job.id for job, _, _ in outlook.queue(7)] == [job.id for job, _, _ in queue[:7]]
    assert outlook.places(["0" * 32]) == {}


def test_a_time_that_depends_on_an_unknown_speed_is_not_told(store: JobStore) -> None:
    submit(store, random.Random(1))
    assert [eta for _, _, eta in Outlook(store, Turns(), Speeds(), 4, list).queue(5)] == [None]


def test_submits_that_meet_share_a_transaction_and_none_is_lost(store: JobStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda n: submit(store, random.Random(n)), range(300)))
    assert Counter(job.id for job in store.queued()) == Counter(job.id for job in jobs)
    with ThreadPoolExecutor(16) as pool:
        taken = [job for job in pool.map(lambda n: _or_none(store, n, 310), range(40)) if job]
    assert len(taken) == 10


def _or_none(store: JobStore, number: int, limit: int) -> Job | None:
    try:
        return submit(store, random.Random(number), limit)
    except TooLarge:
        return None


def test_a_submit_that_could_not_be_written_is_told_and_the_next_one_works(
    store: JobStore, monkeypatch: pytest.MonkeyPatch,
) -> None:
    with store.database.write() as connection:
        connection.execute(text("ALTER TABLE queue_lines RENAME TO away"))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(submit, store, random.Random(n)) for n in range(8)]:
            assert isinstance(done.exception(), Unavailable)
    with store.database.write() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO queue_lines"))
    assert submit(store, random.Random(1)).state is JobState.QUEUED
    assert len(store.queued()) == 1
