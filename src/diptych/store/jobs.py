"""The durable queue. Every method is one transaction; the gateway calls them in worker threads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy.engine import RowMapping

from diptych.core.errors import Conflict, NotFound
from diptych.core.jobs import Artifact, Job, JobState, Priority
from diptych.core.specs import JobSpec
from diptych.store.database import Database
from diptych.store.intake import Entry, Intake
from diptych.store.lines import QueueReader, change_of, count, queued_total, size_of, with_one_less
from diptych.store.records import artifact_of, job_of, one_job, with_artifacts
from diptych.store.records import new_id as new_id
from diptych.store.records import now as now
from diptych.store.tables import IS_BEGUN, IS_QUEUED, IS_RUNNING, artifacts, gateways, jobs

Jobs = list[Job]


class JobStore(QueueReader):
    """Jobs and their artifacts in one database.

    `owner` is who claims jobs through this object. Only the owner of a running job, in the attempt that it claimed,
    can change it (progress, artifacts, end): whoever was taken for dead and lives on changes nothing.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.owner = new_id()
        self.joined = False
        """Whether the owner is a gateway: then it claims only while it is not taken for dead."""
        self._intake = Intake(self.database)

    def migrate(self) -> None:
        self.database.migrate()

    def close(self) -> None:
        self.database.close()

    def submit(
        self, spec: JobSpec, *, caller: str, priority: Priority, timeout_seconds: float, max_attempts: int,
        limit: int, id: str | None = None,
    ) -> Job:
        """Accept a job, under an id that the caller may have drawn with `new_id`. When this returns, it is on disk.

        Raises:
            TooLarge: `limit` jobs are queued already.
        """
        id, created_at = id or new_id(), now()
        self._intake.put(Entry({
            "id": id, "state": JobState.QUEUED.value, "priority": priority.value, "caller": caller,
            "model": spec.model, "spec": spec.model_dump_json(), "max_attempts": max_attempts,
            "timeout_seconds": timeout_seconds, "created_at": created_at, **size_of(spec)}, limit))
        return Job(id=id, state=JobState.QUEUED, priority=priority, caller=caller, spec=spec, attempts=0,
                   max_attempts=max_attempts, timeout_seconds=timeout_seconds,
                   created_at=datetime.fromisoformat(created_at))

    def get(self, id: str) -> Job:
        """Raises NotFound."""
        with self.database.read() as connection:
            return one_job(connection, id)

    def get_many(self, ids: Iterable[str]) -> Jobs:
        """Those of them that there are, with their artifacts."""
        with self.database.read() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.id.in_(list(ids)))).mappings().all()
            return with_artifacts(connection, rows)

    def list(
        self, *, state: JobState | None = None, limit: int = 100, before: str | None = None, caller: str | None = None,
    ) -> list[Job]:
        """Newest first; `before` is the id of a job that the page starts after."""
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(limit)
        if state is not None:
            query = query.where(IS_QUEUED) if state is JobState.QUEUED else query.where(
                IS_BEGUN, jobs.c.state == state.value)
        if caller is not None:
            query = query.where(jobs.c.caller == caller)
        if before is not None:
            query = query.where(jobs.c.seq < select(jobs.c.seq).where(jobs.c.id == before).scalar_subquery())
        with self.database.read() as connection:
            return with_artifacts(connection, connection.execute(query).mappings().all())

    def claim(self, id: str) -> Job | None:
        """Take a queued job to run: counts the attempt before it begins. None when it is no longer queued, or when
        another gateway takes it this moment."""
        with self.database.each() as connection:
            row = connection.execute(_claim(connection.dialect.name), {
                "job": id, "me": self.owner, "begun": now(), "free": not self.joined}).mappings().one_or_none()
            if row is None:
                return None
            if self.database.is_sqlite:
                count(connection, [change_of(row, -1)])
            return with_artifacts(connection, [row])[0] if row["made"] else job_of(row)

    def progress(self, id: str, fraction: float) -> None:
        with self.database.write() as connection:
            connection.execute(self._mine(id).values(progress=min(max(fraction, 0.0), 1.0)))

    def add_artifact(
        self, job_id: str, index: int, path: str, *, attempt: int, media_type: str = "image/png",
        seed: int | None = None, width: int | None = None, height: int | None = None,
    ) -> Artifact:
        """Record a finished file. A second one of the same job and index changes nothing. `path` is relative to the
        artifacts folder.

        Raises:
            Conflict: the job does not run in this attempt, or not here (any more).
        """
        id = f"{job_id}-{index}"
        with self.database.write() as connection:
            held = select(jobs.c.seq).where(
                jobs.c.id == job_id, IS_RUNNING, jobs.c.owner == self.owner, jobs.c.attempts == attempt)
            if connection.scalar(held.with_for_update()) is None:
                raise Conflict(f"job {job_id!r} does not run here in attempt {attempt}", code="not_owner")
            if connection.scalar(select(artifacts.c.id).where(artifacts.c.id == id)) is None:
                connection.execute(artifacts.insert().values(
                    id=id, job_id=job_id, position=index, path=path, media_type=media_type, seed=seed, width=width,
                    height=height, created_at=now()))
            row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().one()
            return artifact_of(row)

    def artifact(self, id: str) -> Artifact:
        """Raises NotFound."""
        with self.database.read() as connection:
            row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no artifact {id[:100]!r}", param="id")
        return artifact_of(row)

    def finish(
        self, id: str, state: JobState, *, attempt: int, error: str | None = None, status: int | None = None,
        metrics: dict[str, float] | None = None,
    ) -> bool:
        """End a running job. False, and nothing changed, unless it runs here in this very attempt."""
        values: dict[str, Any] = {
            "state": state.value, "error": error, "error_status": status, "finished_at": now(),
            "metrics": json.dumps(metrics or {})}
        if state is JobState.SUCCEEDED:
            values["progress"] = 1.0
        with self.database.write() as connection:
            return connection.execute(self._mine(id).where(jobs.c.attempts == attempt).values(**values)).rowcount == 1

    def requeue(self, id: str, *, attempt: int, uncount: bool = False) -> bool:
        """Put a running job back, in its old place. `uncount`: the attempt was not the job's fault (a shutdown).
        False, and nothing changed, unless it runs here in this very attempt."""
        with self.database.write() as connection:
            row = connection.execute(self._mine(id).where(jobs.c.attempts == attempt).values(
                **_back(uncount)).returning(*_LINE)).mappings().one_or_none()
            if row is not None:
                count(connection, [change_of(row, 1)])
            return row is not None

    def request_cancel(self, id: str) -> Job:
        """Cancel a queued job; note the wish on a running one, for whoever runs it. Raises NotFound."""
        with self.database.write() as connection:
            held = select(jobs.c.state, *_LINE).where(jobs.c.id == id).with_for_update()
            row = connection.execute(held).mappings().one_or_none()
            if row is not None and row["state"] == JobState.QUEUED.value:
                connection.execute(update(jobs).where(jobs.c.id == id).values(
                    state=JobState.CANCELLED.value, cancel_requested=True, finished_at=now()))
                count(connection, [change_of(row, -1)])
            elif row is not None and row["state"] == JobState.RUNNING.value:
                connection.execute(update(jobs).where(jobs.c.id == id).values(cancel_requested=True))
            return one_job(connection, id)

    def running_here(self) -> dict[str, tuple[int, bool]]:
        """All jobs that this owner holds: the attempt, and whether a cancel is asked for."""
        query = select(jobs.c.id, jobs.c.attempts, jobs.c.cancel_requested).where(
            IS_RUNNING, jobs.c.owner == self.owner)
        with self.database.read() as connection:
            return {id: (attempt, bool(cancel)) for id, attempt, cancel in connection.execute(query)}

    def recover(self) -> tuple[int, int]:
        """Take back what gateways ran that are no more: it is queued again, or failed if its attempts are used up, or
        cancelled if that was asked for. `(queued again, ended)`."""
        living = select(gateways.c.id)
        whose = (jobs.c.owner.is_(None), (jobs.c.owner >= "") & jobs.c.owner.not_in(living))  # each found by the index
        with self.database.write() as connection:
            settled = [give_back(connection, one) for one in whose]
            return settled[0][0] + settled[1][0], settled[0][1] + settled[1][1]

    def counts(self) -> dict[JobState, int]:
        with self.database.read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).where(IS_BEGUN).group_by(jobs.c.state)).all()
            found = {JobState(state): number for state, number in rows}
            found[JobState.QUEUED] = queued_total(connection)
        return {state: found.get(state, 0) for state in JobState}

    def _mine(self, id: str) -> Any:
        return update(jobs).where(jobs.c.id == id, IS_RUNNING, jobs.c.owner == self.owner)


def give_back(connection: Connection, whose: ColumnElement[bool], *, uncount: bool = False) -> tuple[int, int]:
    """Settle the running jobs for which `whose` holds, as `JobStore.recover` says. `uncount`: their gateway was told
    to end, which was not their fault."""
    query = select(jobs).where(IS_RUNNING, whose).with_for_update()
    if connection.dialect.name == "postgresql":  # all lock in one order; SQLite would read the whole table for it
        query = query.order_by(jobs.c.seq)
    rows = connection.execute(query).mappings().all()
    again = [row for row in rows if not row["cancel_requested"] and (uncount or row["attempts"] < row["max_attempts"])]
    seqs = {row["seq"] for row in again}
    for row in rows:
        values = _back(uncount) if row["seq"] in seqs else _over(row)
        connection.execute(update(jobs).where(jobs.c.seq == row["seq"]).values(**values))
    count(connection, [change_of(row, 1) for row in again])
    return len(again), len(rows) - len(again)


def _back(uncount: bool) -> dict[str, Any]:
    attempts = jobs.c.attempts - 1 if uncount else jobs.c.attempts
    return {"state": JobState.QUEUED.value, "attempts": attempts, "started_at": None, "owner": None}


def _over(row: RowMapping) -> dict[str, Any]:
    if row["cancel_requested"]:
        return {"state": JobState.CANCELLED.value, "finished_at": now()}
    return {"state": JobState.FAILED.value, "finished_at": now(), "error_status": 503,
            "error": "the server ended during each of its attempts to run this job"}


@cache
def _claim(dialect: str) -> Any:
    made = select(artifacts.c.id).where(artifacts.c.job_id == bindparam("job")).limit(1).scalar_subquery()
    lives = select(gateways.c.id).where(gateways.c.id == bindparam("me")).exists()
    wanted = select(jobs.c.seq).where(
        jobs.c.id == bindparam("job"), IS_QUEUED, bindparam("free", type_=Boolean) | lives)
    if dialect == "postgresql":
        wanted = wanted.with_for_update(skip_locked=True)
    taken = update(jobs).where(jobs.c.seq == wanted.scalar_subquery(), IS_QUEUED).values(
        state=JobState.RUNNING.value, attempts=jobs.c.attempts + 1, started_at=bindparam("begun"),
        owner=bindparam("me")).returning(*jobs.c, made.label("made"))
    return with_one_less(taken) if dialect == "postgresql" else taken


_LINE = (jobs.c.priority, jobs.c.caller, jobs.c.model, jobs.c.shape, jobs.c.pictures, jobs.c.steps)
