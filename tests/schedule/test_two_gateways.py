"""Two real gateway processes on one PostgreSQL database, and one on SQLite: shared work, deaths, a gateway that was
only asleep, cancels and events across processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatch_studio import Open, Studio

from diptych.core.errors import Unavailable
from diptych.core.events import ArtifactReady, Finished, Started
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.store.jobs import JobStore

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent
LEASE = 2.0

Values = dict[str, Any]
Start = Callable[[Values], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts gateways; they are ended with the test."""
    begun: list[subprocess.Popen[str]] = []

    def build(values: Values) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "gateway_process.py"), json.dumps(values)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    yield build
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def shared(data_dir: Path, new_postgres_url: Callable[[], str]) -> Callable[[str], Values]:
    """Settings of a gateway by its name: a data folder of its own, one database, one folder of pictures."""
    url = new_postgres_url()

    def of(name: str) -> Values:
        return {"data_dir": str(data_dir / name), "model_dirs": [str(data_dir / "models")], "database_url": url,
                "pictures_dir": str(data_dir / "pictures"), "gateway_lease_seconds": LEASE, "warm_spare": False,
                "threads": 1, "image_batch": 1}

    return of


@pytest.fixture
def store(shared: Callable[[str], Values]) -> Iterator[JobStore]:
    opened = JobStore(shared("any")["database_url"])
    yield opened
    opened.close()


def submit(store: JobStore, prompt: str, **spec: Any) -> Job:
    values = {"model": "paint", "steps": 2, "count": 1, "seed": 7, "width": 64, "height": 64, **spec}
    return store.submit(ImageSpec(prompt=prompt, **values), caller="ann", priority=Priority.INTERACTIVE,
                        timeout_seconds=60, max_attempts=3, limit=100)


async def until(store: JobStore, id: str, true: Callable[[Job], Any], seconds: float = 60) -> Job:
    for _ in range(int(seconds / 0.05)):
        job = await asyncio.to_thread(store.get, id)
        if true(job):
            return job
        await asyncio.sleep(0.05)
    raise AssertionError(f"it did not happen in time: {job}")


def ended(job: Job) -> bool:
    return job.state.final


def painted(data_dir: Path, job: Job) -> list[tuple[int, int]]:
    """Index and process of every picture that was painted, in order."""
    lines = (data_dir / "pictures" / job.id / "made.log").read_text().splitlines()
    return [(int(index), int(pid)) for index, pid in (line.split() for line in lines)]


async def test_two_gateways_share_the_work_and_a_killed_one_is_replaced(
    start: Start, shared: Callable[[str], Values], store: JobStore, data_dir: Path,
) -> None:
    one, _ = start(shared("one")), start(shared("two"))
    jobs = [submit(store, "wait 0.4") for _ in range(10)]
    done = [await until(store, job.id, ended) for job in jobs]
    assert {(job.state, job.attempts) for job in done} == {(JobState.SUCCEEDED, 1)}
    made = [painted(data_dir, job) for job in jobs]
    assert all(len(pictures) == 1 for pictures in made)
    assert len({pictures[0][1] for pictures in made}) == 2  # both worked

    long = [submit(store, "wait 0.1", count=3, steps=6) for _ in range(2)]  # one for each of them
    for job in long:
        await until(store, job.id, lambda job: job.artifacts)
    one.kill()
    after = [await until(store, job.id, ended) for job in long]
    assert [job.state for job in after] == [JobState.SUCCEEDED] * 2
    assert sorted(job.attempts for job in after) == [1, 2]  # the survivor's own job went on
    for job in after:
        assert [file.index for file in job.artifacts] == [0, 1, 2]
        assert [index for index, _ in painted(data_dir, job)] == [0, 1, 2]  # none was painted twice


async def test_a_gateway_that_was_only_asleep_delivers_nothing_and_works_again(
    start: Start, shared: Callable[[str], Values], store: JobStore,
) -> None:
    sleeper = start(shared("one"))
    job = submit(store, "wait 0.2", count=2, steps=5)
    await until(store, job.id, lambda job: job.artifacts)
    sleeper.send_signal(signal.SIGSTOP)  # its runner goes on painting
    other = start(shared("two"))
    retried = await until(store, job.id, lambda job: job.attempts == 2)
    sleeper.send_signal(signal.SIGCONT)
    done = await until(store, job.id, ended)
    assert (done.state, done.attempts, len(done.artifacts)) == (JobState.SUCCEEDED, 2, 2)
    assert done.artifacts[0] == retried.artifacts[0]
    other.send_signal(signal.SIGSTOP)
    last = submit(store, "wait 0")  # only the one that was taken for dead is there now
    assert (await until(store, last.id, ended)).state is JobState.SUCCEEDED


async def test_a_gateway_that_comes_back_on_its_folder_needs_no_lease(
    start: Start, shared: Callable[[str], Values], store: JobStore,
) -> None:
    values = {**shared("one"), "gateway_lease_seconds": 3600}
    victim = start(values)
    job = submit(store, "wait 0.1", count=2, steps=5)
    await until(store, job.id, lambda job: job.artifacts)
    victim.kill()
    victim.wait()
    start(values)
    done = await until(store, job.id, ended)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 2)


async def test_cancel_and_events_of_a_job_that_another_gateway_runs(
    start: Start, shared: Callable[[str], Values], store: JobStore, open_studio: Open,
) -> None:
    start(shared("one"))
    first, second = submit(store, "wait 0.1", count=2, steps=4), submit(store, "wait 0.1", steps=1000)
    await until(store, first.id, lambda job: job.state is JobState.RUNNING)
    values = {key: value for key, value in shared("two").items() if key not in ("data_dir", "warm_spare", "threads")}
    here = await open_studio(**values)
    here.dispatcher.drain()  # it runs nothing itself
    told = [event async for event in here.dispatcher.events(first.id)]
    assert isinstance(told[0], Started)
    assert [event.index for event in told if isinstance(event, ArtifactReady)] == [0, 1]
    assert told[-1] == Finished()
    await until(store, second.id, lambda job: job.state is JobState.RUNNING)
    assert (await here.dispatcher.cancel(second.id)).state is JobState.RUNNING
    assert (await until(store, second.id, ended)).state is JobState.CANCELLED


async def test_a_killed_gateway_on_sqlite_is_followed_at_once_and_shares_with_nobody(
    start: Start, data_dir: Path, open_studio: Open,
) -> None:
    values = {"data_dir": str(data_dir), "warm_spare": False, "threads": 1}
    victim = start(values)
    store = JobStore(f"sqlite:///{data_dir / 'diptych.sqlite3'}")
    job = submit(store, "wait 0.1", count=3, steps=4)
    await until(store, job.id, lambda job: job.artifacts)
    with pytest.raises(Unavailable, match="another Diptych server"):
        await open_studio()
    victim.kill()
    victim.wait()
    studio: Studio = await open_studio()
    assert (await studio.until(job)).attempts == 2
    store.close()


async def test_a_job_is_left_to_the_gateway_that_has_its_model(
    start: Start, shared: Callable[[str], Values], store: JobStore, data_dir: Path,
) -> None:
    start({**shared("one"), "model_dirs": []})
    start(shared("two"))
    await asyncio.sleep(1)  # the first has seen the second
    for job in [submit(store, "wait 0") for _ in range(3)]:
        done = await until(store, job.id, ended)
        assert (done.state, done.error) == (JobState.SUCCEEDED, None)


async def test_a_polite_end_gives_the_attempt_back_even_when_it_is_cut_short(
    start: Start, shared: Callable[[str], Values], store: JobStore,
) -> None:
    leaver = start(shared("one"))
    job = submit(store, "wait 0.2", count=2, steps=5)
    await until(store, job.id, lambda job: job.artifacts)
    assert leaver.stdin is not None
    leaver.stdin.close()
    assert await asyncio.to_thread(leaver.wait, 30) == 0
    stopped = store.get(job.id)
    assert (stopped.state, stopped.attempts) == (JobState.QUEUED, 0)
