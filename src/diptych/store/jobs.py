"""The durable queue. Every method is one transaction; the gateway calls them in worker threads."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy.engine import RowMapping

from diptych.core.errors import NotFound, TooLarge
from diptych.core.jobs import Artifact, Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.store.database import Database
from diptych.store.tables import artifacts, jobs


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def new_id() -> str:
    """32 hexadecimal digits that sort by time: 12 of milliseconds, 20 random."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


Jobs = list[Job]


class JobStore:
    """Jobs and their artifacts in one database."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def migrate(self) -> None:
        self.database.migrate()

    def close(self) -> None:
        self.database.close()

    def submit(
        self, spec: ImageSpec, *, caller: str, priority: Priority, timeout_seconds: float, max_attempts: int,
        limit: int,
    ) -> Job:
        """Accept a job. When this returns, it is on disk.

        Raises:
            TooLarge: `limit` jobs are queued already.
        """
        id = new_id()
        with self.database.write() as connection:
            queued = connection.scalar(_count(jobs.c.state == JobState.QUEUED.value)) or 0
            if queued >= limit:
                raise TooLarge(f"the queue is full: {queued} jobs wait, at most {limit} may", code="queue_full")
            connection.execute(jobs.insert().values(
                id=id, state=JobState.QUEUED.value, priority=priority.value, caller=caller, model=spec.model,
                spec=spec.model_dump_json(), max_attempts=max_attempts, timeout_seconds=timeout_seconds,
                created_at=now()))
            return _one(connection, id)

    def get(self, id: str) -> Job:
        """Raises NotFound."""
        with self.database.read() as connection:
            return _one(connection, id)

    def list(
        self, *, state: JobState | None = None, limit: int = 100, before: str | None = None, caller: str | None = None,
    ) -> list[Job]:
        """Newest first; `before` is the id of a job that the page starts after."""
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        if caller is not None:
            query = query.where(jobs.c.caller == caller)
        if before is not None:
            query = query.where(jobs.c.seq < select(jobs.c.seq).where(jobs.c.id == before).scalar_subquery())
        with self.database.read() as connection:
            return _with_artifacts(connection, connection.execute(query).mappings().all())

    def queued(self) -> Jobs:
        """All queued jobs in the order of their arrival, without artifacts."""
        query = select(jobs).where(jobs.c.state == JobState.QUEUED.value).order_by(jobs.c.seq)
        with self.database.read() as connection:
            return [_job(row, ()) for row in connection.execute(query).mappings()]

    def heads(self) -> Jobs:
        """For every priority, caller and model, the queued job that came first."""
        keys = (jobs.c.priority, jobs.c.caller, jobs.c.model)
        first = select(func.min(jobs.c.seq)).where(jobs.c.state == JobState.QUEUED.value).group_by(*keys)
        with self.database.read() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.seq.in_(first)).order_by(jobs.c.seq)).mappings()
            return [_job(row, ()) for row in rows]

    def claim(self, id: str) -> Job | None:
        """Take a queued job to run: counts the attempt before it begins. None when it is no longer queued."""
        with self.database.write() as connection:
            changed = connection.execute(
                update(jobs).where(jobs.c.id == id, jobs.c.state == JobState.QUEUED.value).values(
                    state=JobState.RUNNING.value, attempts=jobs.c.attempts + 1, started_at=now()))
            return _one(connection, id) if changed.rowcount == 1 else None

    def progress(self, id: str, fraction: float) -> None:
        with self.database.write() as connection:
            connection.execute(_running(id).values(progress=min(max(fraction, 0.0), 1.0)))

    def add_artifact(
        self, job_id: str, index: int, path: str, *, media_type: str = "image/png", seed: int | None = None,
        width: int | None = None, height: int | None = None,
    ) -> Artifact:
        """Record a finished file. A second one of the same job and index changes nothing. `path` is relative to the
        artifacts folder."""
        id = f"{job_id}-{index}"
        with self.database.write() as connection:
            if connection.scalar(select(artifacts.c.id).where(artifacts.c.id == id)) is None:
                connection.execute(artifacts.insert().values(
                    id=id, job_id=job_id, position=index, path=path, media_type=media_type, seed=seed, width=width,
                    height=height, created_at=now()))
            row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().one()
            return _artifact(row)

    def artifact(self, id: str) -> Artifact:
        """Raises NotFound."""
        with self.database.read() as connection:
            row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no artifact {id[:100]!r}", param="id")
        return _artifact(row)

    def finish(
        self, id: str, state: JobState, *, attempt: int, error: str | None = None, status: int | None = None,
        metrics: dict[str, float] | None = None,
    ) -> bool:
        """End a running job. False, and nothing changed, unless it runs in this very attempt."""
        values: dict[str, Any] = {
            "state": state.value, "error": error, "error_status": status, "finished_at": now(),
            "metrics": json.dumps(metrics or {})}
        if state is JobState.SUCCEEDED:
            values["progress"] = 1.0
        with self.database.write() as connection:
            done = connection.execute(_running(id).where(jobs.c.attempts == attempt).values(**values))
            return done.rowcount == 1

    def requeue(self, id: str, *, attempt: int, uncount: bool = False) -> bool:
        """Put a running job back, in its old place. `uncount`: the attempt was not the job's fault (a shutdown)."""
        attempts = jobs.c.attempts - 1 if uncount else jobs.c.attempts
        with self.database.write() as connection:
            done = connection.execute(_running(id).where(jobs.c.attempts == attempt).values(
                state=JobState.QUEUED.value, attempts=attempts, started_at=None))
            return done.rowcount == 1

    def request_cancel(self, id: str) -> Job:
        """Cancel a queued job; note the wish on a running one. Raises NotFound."""
        with self.database.write() as connection:
            connection.execute(
                update(jobs).where(jobs.c.id == id, jobs.c.state == JobState.QUEUED.value).values(
                    state=JobState.CANCELLED.value, cancel_requested=True, finished_at=now()))
            connection.execute(_running(id).values(cancel_requested=True))
            return _one(connection, id)

    def recover(self) -> tuple[int, int]:
        """After a crash: what was running is queued again, or failed if its attempts are used up, or cancelled if
        that was asked for. `(queued again, ended)`."""
        running = jobs.c.state == JobState.RUNNING.value
        with self.database.write() as connection:
            cancelled = connection.execute(update(jobs).where(running, jobs.c.cancel_requested).values(
                state=JobState.CANCELLED.value, finished_at=now()))
            failed = connection.execute(update(jobs).where(running, jobs.c.attempts >= jobs.c.max_attempts).values(
                state=JobState.FAILED.value, finished_at=now(), error_status=503,
                error="the server ended during each of its attempts to run this job"))
            queued = connection.execute(update(jobs).where(running).values(
                state=JobState.QUEUED.value, started_at=None))
            return queued.rowcount, cancelled.rowcount + failed.rowcount

    def counts(self) -> dict[JobState, int]:
        with self.database.read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        found = {JobState(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in JobState}

    def queue_lengths(self) -> dict[Priority, int]:
        """How many jobs wait, by class."""
        query = select(jobs.c.priority, func.count()).where(jobs.c.state == JobState.QUEUED.value).group_by(
            jobs.c.priority)
        with self.database.read() as connection:
            found = {Priority(priority): count for priority, count in connection.execute(query)}
        return {priority: found.get(priority, 0) for priority in Priority}


def _count(condition: ColumnElement[bool]) -> Any:
    return select(func.count()).select_from(jobs).where(condition)


def _running(id: str) -> Any:
    return update(jobs).where(jobs.c.id == id, jobs.c.state == JobState.RUNNING.value)


def _one(connection: Connection, id: str) -> Job:
    row = connection.execute(select(jobs).where(jobs.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no job {id[:100]!r}", param="id")
    return _with_artifacts(connection, [row])[0]


def _with_artifacts(connection: Connection, rows: Sequence[RowMapping]) -> list[Job]:
    """Jobs with their artifacts, from two queries for all of them."""
    ids = [row["id"] for row in rows]
    found: dict[str, list[Artifact]] = {id: [] for id in ids}
    query = select(artifacts).where(artifacts.c.job_id.in_(ids)).order_by(artifacts.c.position)
    for row in connection.execute(query).mappings():
        found[row["job_id"]].append(_artifact(row))
    return [_job(row, found[row["id"]]) for row in rows]


def _job(row: RowMapping, files: Iterable[Artifact]) -> Job:
    values = {key: row[key] for key in Job.model_fields if key in row and key not in ("spec", "metrics")}
    return Job(**values, spec=ImageSpec.model_validate_json(row["spec"]), metrics=json.loads(row["metrics"]),
               artifacts=tuple(files))


def _artifact(row: RowMapping) -> Artifact:
    values = dict(row)
    return Artifact(index=values.pop("position"), **values)
