"""Who owns a running job, and what happens to it when that gateway is gone or taken for dead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.core.errors import Conflict, Unavailable
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.store.gateways import Gateways
from diptych.store.jobs import JobStore
from diptych.store.seat import Seat

Open = Callable[[], JobStore]


def joined(store: JobStore) -> Gateways:
    found = Gateways(store.database)
    found.join(store.owner, "here")
    store.joined = True
    return found


def running(store: JobStore, max_attempts: int = 2) -> Job:
    job = store.submit(ImageSpec(prompt="x", seed=1), caller="ann", priority=Priority.BATCH, timeout_seconds=5,
                       max_attempts=max_attempts, limit=100)
    claimed = store.claim(job.id)
    assert claimed is not None
    return claimed


def test_who_was_taken_for_dead_delivers_nothing(open_store: Open) -> None:
    dead, other = open_store(), open_store()
    joined(dead)
    gateways = joined(other)
    job = running(dead)
    dead.add_artifact(job.id, 0, "0.png", attempt=1)
    assert gateways.bury(dead.owner, gateways.beats()[dead.owner]) == (1, 0)
    again = other.claim(job.id)
    assert again is not None and again.attempts == 2
    assert [file.index for file in again.artifacts] == [0]  # what was finished is kept
    assert not Gateways(dead.database).beat(dead.owner)
    assert not dead.finish(job.id, JobState.SUCCEEDED, attempt=1)
    assert not dead.finish(job.id, JobState.SUCCEEDED, attempt=2)
    assert not dead.requeue(job.id, attempt=2)
    for attempt in (1, 2):
        with pytest.raises(Conflict):
            dead.add_artifact(job.id, 1, "late.png", attempt=attempt)
    dead.progress(job.id, 0.9)
    now = other.get(job.id)
    assert (now.state, now.progress, len(now.artifacts)) == (JobState.RUNNING, 0.0, 1)
    free = other.submit(job.spec, caller="ann", priority=Priority.BATCH, timeout_seconds=5, max_attempts=2, limit=9)
    assert dead.claim(free.id) is None
    assert other.finish(job.id, JobState.SUCCEEDED, attempt=2)


def test_who_has_moved_since_is_not_buried(open_store: Open) -> None:
    store, other = open_store(), open_store()
    mine, gateways = joined(store), joined(other)
    job = running(store)
    seen = gateways.beats()[store.owner]
    assert mine.beat(store.owner)
    assert gateways.bury(store.owner, seen) is None
    assert store.finish(job.id, JobState.SUCCEEDED, attempt=1)


def test_an_attempt_does_not_count_when_its_gateway_was_told_to_end(open_store: Open) -> None:
    store, other = open_store(), open_store()
    mine, gateways = joined(store), joined(other)
    job = running(store, max_attempts=1)
    mine.leaving(store.owner)
    assert gateways.bury(store.owner) == (1, 0)
    assert (other.get(job.id).state, other.get(job.id).attempts) == (JobState.QUEUED, 0)


def test_recover_takes_only_from_those_that_are_gone(open_store: Open) -> None:
    living, gone, other = open_store(), open_store(), open_store()
    joined(living)
    joined(other)
    kept, lost, used_up = running(living), running(gone), running(gone, max_attempts=1)
    assert other.recover() == (1, 1)
    assert [other.get(job.id).state for job in (kept, lost, used_up)] == [
        JobState.RUNNING, JobState.QUEUED, JobState.FAILED]
    assert living.running_here() == {kept.id: (1, False)}
    other.request_cancel(kept.id)
    assert living.running_here() == {kept.id: (1, True)}


def test_a_data_folder_has_one_gateway(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a' / 'jobs.sqlite3'}"
    for name in "ab":
        (tmp_path / name).mkdir()
    first = Seat(tmp_path / "a", url)
    assert first.take("one") is None
    for folder in ("a", "b"):  # another folder that names the same SQLite file is no way round
        with pytest.raises(Unavailable, match="another Diptych server") as caught:
            Seat(tmp_path / folder, url).take("two")
        assert "\n" not in caught.value.message
    Seat(tmp_path / "b", "postgresql+psycopg://host/name").take("three")
    first.leave()
    second = Seat(tmp_path / "a", url)
    assert second.take("two") == "one"
    second.leave()


def test_a_seat_goes_with_its_process(tmp_path: Path) -> None:
    script = ("import os, sys; from pathlib import Path; from diptych.store.seat import Seat; "
              "Seat(Path(sys.argv[1]), 'sqlite://').take('victim'); os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60).returncode == -9
    assert Seat(tmp_path, "sqlite://").take("heir") == "victim"
