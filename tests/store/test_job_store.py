"""The store on real SQLite files and a real PostgreSQL server: the queue's atomic steps, recovery, migrations."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text

from diptych.core.errors import NotFound, TooLarge, Unavailable
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.store import database
from diptych.store.jobs import JobStore
from diptych.store.measurements import Measurements
from diptych.store.tables import whole_metadata

SPEC = ImageSpec(prompt="a cat", seed=1, count=3)
MIGRATIONS = Path(database.__file__).parent / "migrations"


def submit(store: JobStore, caller: str = "ann", **changes: Any) -> Job:
    options: dict[str, Any] = {
        "caller": caller, "priority": Priority.INTERACTIVE, "timeout_seconds": 5.0, "max_attempts": 2, "limit": 100}
    return store.submit(changes.pop("spec", SPEC), **{**options, **changes})


def claimed(store: JobStore, id: str) -> Job:
    job = store.claim(id)
    assert job is not None
    return job


def test_a_job_comes_back_as_it_went_in(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    job = submit(store, priority=Priority.BATCH)
    assert open_store().get(job.id) == job
    assert (job.state, job.spec, job.caller, job.priority, job.attempts) == (
        JobState.QUEUED, SPEC, "ann", Priority.BATCH, 0)
    assert job.created_at.utcoffset() is not None
    with pytest.raises(NotFound, match="nobody"):
        store.get("nobody")


def test_claim_takes_each_job_once(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    ids = [submit(store).id for _ in range(20)]
    stores = [store, open_store(), open_store()]
    with ThreadPoolExecutor(12) as pool:
        taken = [job for job in pool.map(lambda n: stores[n % 3].claim(ids[n % 20]), range(80)) if job]
    assert sorted(job.id for job in taken) == sorted(ids)
    assert {job.attempts for job in taken} == {1}
    assert {job.state for job in taken} == {JobState.RUNNING}


def test_the_attempt_counts_although_its_claimer_is_killed(store: JobStore, url: str) -> None:
    job = submit(store)
    script = ("import os, sys; from diptych.store.jobs import JobStore; s = JobStore(sys.argv[1]); "
              "s.claim(sys.argv[2]); os.kill(os.getpid(), 9)")
    for attempt in (1, 2):
        assert subprocess.run([sys.executable, "-c", script, url, job.id], timeout=60).returncode == -9
        assert store.get(job.id).attempts == attempt
        assert store.recover() == ((1, 0) if attempt == 1 else (0, 1))
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error
    assert failed.finished_at is not None


def test_recover_leaves_others_alone_and_honours_cancel(store: JobStore) -> None:
    queued, done, gone = (submit(store).id for _ in range(3))
    attempt = claimed(store, done).attempts
    claimed(store, gone)
    store.finish(done, JobState.SUCCEEDED, attempt=attempt)
    store.request_cancel(gone)
    assert store.recover() == (0, 1)
    assert [store.get(id).state for id in (queued, done, gone)] == [
        JobState.QUEUED, JobState.SUCCEEDED, JobState.CANCELLED]


def test_artifacts_are_noted_once(store: JobStore) -> None:
    job = claimed(store, submit(store).id)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(
            lambda n: store.add_artifact(job.id, 1, f"{n}.png", attempt=1, seed=2**63 - 1), range(8)))
    assert len({artifact.path for artifact in found}) == 1
    store.add_artifact(job.id, 0, "zero.png", attempt=1)
    assert [file.index for file in store.get(job.id).artifacts] == [0, 1]
    assert store.artifact(found[0].id) == found[0]
    assert found[0].seed == 2**63 - 1
    with pytest.raises(NotFound):
        store.artifact("nobody-0")


def test_a_final_state_stays(store: JobStore) -> None:
    job = submit(store)
    attempt = claimed(store, job.id).attempts
    assert store.finish(job.id, JobState.SUCCEEDED, attempt=attempt, metrics={"seconds": 2.5})
    assert not store.finish(job.id, JobState.FAILED, attempt=attempt, error="late")
    assert not store.requeue(job.id, attempt=attempt)
    store.request_cancel(job.id)
    store.progress(job.id, 0.1)
    after = store.get(job.id)
    assert (after.state, after.error, after.progress, after.metrics) == (
        JobState.SUCCEEDED, None, 1.0, {"seconds": 2.5})
    assert store.claim(job.id) is None


def test_an_earlier_attempt_cannot_end_a_later_one(store: JobStore) -> None:
    job = submit(store)
    claimed(store, job.id)
    store.requeue(job.id, attempt=1)
    claimed(store, job.id)
    assert not store.finish(job.id, JobState.FAILED, attempt=1, error="old")
    assert store.get(job.id).state is JobState.RUNNING


def test_cancel_ends_a_queued_job_and_marks_a_running_one(store: JobStore) -> None:
    queued, running = submit(store).id, submit(store).id
    claimed(store, running)
    assert store.request_cancel(queued).state is JobState.CANCELLED
    marked = store.request_cancel(running)
    assert (marked.state, marked.cancel_requested) == (JobState.RUNNING, True)
    with pytest.raises(NotFound, match="nobody"):
        store.request_cancel("nobody")


def test_requeue_keeps_the_place_and_may_give_the_attempt_back(store: JobStore) -> None:
    first, second = submit(store).id, submit(store).id
    claimed(store, first)
    assert store.requeue(first, attempt=1)
    assert store.get(first).attempts == 1
    claimed(store, first)
    assert store.requeue(first, attempt=2, uncount=True)
    assert store.get(first).attempts == 1
    assert [job.id for job in store.queued()] == [first, second]


def test_heads_are_the_first_of_every_class_caller_and_model(store: JobStore) -> None:
    other = SPEC.model_copy(update={"model": "other"})
    kinds: list[dict[str, Any]] = [{}, {"caller": "bob"}, {"spec": other}, {"priority": Priority.BATCH}]
    first = [submit(store, **kind).id for kind in kinds]
    for kind in kinds:
        submit(store, **kind)
    assert [job.id for job in store.heads()] == first


def test_the_queue_has_an_end(store: JobStore) -> None:
    submit(store, limit=1)
    with pytest.raises(TooLarge, match="1 jobs wait"):
        submit(store, limit=1)


def test_list_pages_from_the_newest(store: JobStore) -> None:
    ids = [submit(store).id for _ in range(7)]
    page = store.list(limit=3)
    assert [job.id for job in page] == ids[:3:-1]
    assert [job.id for job in store.list(limit=10, before=page[-1].id)] == ids[3::-1]
    store.request_cancel(ids[0])
    assert [job.id for job in store.list(state=JobState.CANCELLED)] == [ids[0]]
    assert [job.id for job in store.list(caller="bob")] == []
    assert store.counts()[JobState.QUEUED] == 6


def test_a_writer_waits_for_another(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    other = open_store()
    begun = threading.Event()

    def hold() -> None:
        with other.database.write() as connection:
            connection.execute(text("UPDATE jobs SET progress = 0"))
            begun.set()
            threading.Event().wait(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(5)
    assert store.list() == []  # a reader does not wait
    assert submit(store).attempts == 0
    holder.join()


def test_measurements_move_towards_the_newest(store: JobStore) -> None:
    measured = Measurements(store.database)
    assert measured.record("starter", "step_seconds", "128x128", 1.0) == 1.0
    for _ in range(10):
        mean = measured.record("starter", "step_seconds", "128x128", 2.0)
    assert 1.9 < mean < 2.0
    measured.record("starter", "bytes", "peak", 7.0)
    assert measured.all("step_seconds") == {("starter", "128x128"): pytest.approx(mean)}


def test_head_is_the_newest_migration_and_makes_the_tables(store: JobStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [database.HEAD]
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), whole_metadata()) == []


def test_alembic_is_imported_only_when_there_is_something_to_migrate(store: JobStore, url: str) -> None:
    script = ("import sys; from diptych.store.jobs import JobStore; JobStore(sys.argv[1]).migrate(); "
              "sys.exit('alembic' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", script, url], timeout=60).returncode == 0


def test_sqlite_writes_ahead_and_checks_keys(store: JobStore) -> None:
    if not store.database.is_sqlite:
        pytest.skip("about SQLite")
    with store.database.engine.connect() as connection:
        pragmas = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
    assert pragmas == ["wal", 1]


def test_a_newer_database_is_refused(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="newer Diptych"):
        open_store()


@pytest.mark.parametrize("bad", ["nonsense", "klingon:///x", "sqlite:////proc/no/such/place.db"])
def test_a_bad_url_is_told_in_one_line(bad: str) -> None:
    with pytest.raises(Unavailable) as caught:
        JobStore(bad).migrate()
    assert "\n" not in caught.value.message


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        JobStore(f"sqlite:///{file}").migrate()


def test_the_tables_are_all_there(store: JobStore, url: str) -> None:
    assert set(inspect(create_engine(url)).get_table_names()) == {*whole_metadata().tables, "alembic_version"}
