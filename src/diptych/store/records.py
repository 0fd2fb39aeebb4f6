"""Rows of the database as records of the core."""

from __future__ import annotations

import builtins
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from sqlalchemy import Connection, select
from sqlalchemy.engine import RowMapping

from diptych.core.errors import NotFound
from diptych.core.jobs import Artifact, Job
from diptych.core.specs import recorded_spec
from diptych.store.tables import artifacts, jobs

_PLAIN = tuple(key for key in Job.model_fields if key not in ("spec", "metrics", "artifacts"))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def new_id() -> str:
    """32 hexadecimal digits that sort by time: 12 of milliseconds, 20 random."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def job_of(row: RowMapping, files: Iterable[Artifact] = ()) -> Job:
    return Job(**{key: row[key] for key in _PLAIN}, spec=recorded_spec(json.loads(row["spec"])),
               metrics=json.loads(row["metrics"]), artifacts=tuple(files))


def artifact_of(row: RowMapping) -> Artifact:
    values = dict(row)
    return Artifact(index=values.pop("position"), **values)


def one_job(connection: Connection, id: str) -> Job:
    """Raises NotFound."""
    row = connection.execute(select(jobs).where(jobs.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no job {id[:100]!r}", param="id")
    return with_artifacts(connection, [row])[0]


def with_artifacts(connection: Connection, rows: Sequence[RowMapping]) -> builtins.list[Job]:
    """Jobs with their artifacts, from one more query for all of them."""
    if not rows:
        return []
    found: dict[str, list[Artifact]] = {row["id"]: [] for row in rows}
    query = select(artifacts).where(artifacts.c.job_id.in_(list(found))).order_by(artifacts.c.position)
    for row in connection.execute(query).mappings():
        found[row["job_id"]].append(artifact_of(row))
    return [job_of(row, found[row["id"]]) for row in rows]
