"""A database that is locked and a clock that jumps: the dispatcher goes on, nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dispatch_studio import Open

from diptych.core.errors import Unavailable
from diptych.core.events import Finished, Queued
from diptych.core.jobs import JobState

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def locked(data_dir: Path) -> AsyncIterator[None]:
    """Another process's transaction keeps everybody else from writing."""
    connection = sqlite3.connect(data_dir / "diptych.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.store.database.BUSY_MILLISECONDS", 100)
    monkeypatch.setattr("diptych.schedule.execution.WRITE_PAUSES", (0.1,))


async def test_a_job_whose_end_could_not_be_written_is_found_again(open_studio: Open, data_dir: Path) -> None:
    studio = await open_studio()
    job = await studio.submit("wait 0.3", count=2, steps=4)
    await studio.until_painted(job)
    await asyncio.sleep(0.5)
    async with locked(data_dir):
        await studio.wait_for(lambda: not studio.dispatcher.executions)
        assert studio.store.get(job.id).state is JobState.RUNNING
        with pytest.raises(Unavailable, match="locked"):
            await studio.submit("wait 0")
    done = await studio.until(job)
    assert (done.state, [file.index for file in done.artifacts]) == (JobState.SUCCEEDED, [0, 1])
    assert (await studio.until(await studio.submit("wait 0"))).state is JobState.SUCCEEDED


async def test_a_queue_that_cannot_be_read_is_served_later(open_studio: Open, data_dir: Path) -> None:
    studio = await open_studio()
    await studio.dispatcher.load("paint")
    blocker = await studio.submit("wait 0.2", steps=3)
    await studio.until(blocker, JobState.RUNNING)
    async with locked(data_dir):
        await asyncio.sleep(1.5)
    assert (await studio.until(blocker)).state is JobState.SUCCEEDED
    job = await studio.submit("wait 0")
    assert [event async for event in studio.dispatcher.events(job.id)][-1] == Finished()


@pytest.mark.parametrize("hours", [-1000, 1000])
async def test_a_clock_that_jumps_changes_neither_order_nor_outcome(
    open_studio: Open, monkeypatch: pytest.MonkeyPatch, hours: int,
) -> None:
    studio = await open_studio(image_batch=1)
    real = time.time
    running = await studio.submit("wait 0.1", steps=10)
    await studio.until(running, JobState.RUNNING)
    before = await studio.submit("wait 0.1")
    broken = await studio.submit("wait 0", model="broken")
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    after = [await studio.submit("wait 0.1"), await studio.submit("wait 0", model="broken")]
    assert (await studio.until(broken)).state is JobState.FAILED
    assert (await studio.until(after[1])).state is JobState.FAILED  # told once each, not tried for ever
    done = [await studio.until(job) for job in (running, before, after[0])]
    assert [job.state for job in done] == [JobState.SUCCEEDED] * 3
    starts = [job.started_at for job in done]
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert {job.attempts for job in done} == {1}


async def test_positions_are_told_to_those_who_watch(open_studio: Open) -> None:
    studio = await open_studio(image_batch=1)
    await studio.until(await studio.submit("wait 0"))
    running = await studio.submit("wait 0.1", steps=60)
    await studio.until(running, JobState.RUNNING)
    jobs = [await studio.submit("wait 0", steps=100) for _ in range(3)]
    place = await studio.dispatcher.place(jobs[2].id)
    assert place is not None and place.position == 2 and place.eta_seconds is not None and place.eta_seconds > 3
    stream = studio.dispatcher.events(jobs[2].id)
    told = await anext(stream)
    assert isinstance(told, Queued) and told.position == 2
    await studio.dispatcher.cancel(jobs[0].id)
    moved = await anext(stream)
    assert isinstance(moved, Queued) and moved.position == 1
    await stream.aclose()
    assert await studio.dispatcher.place(running.id) is None
