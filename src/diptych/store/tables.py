"""The tables. Times are UTC as ISO text with microseconds, so that they sort and mean the same in every database."""

from __future__ import annotations

from functools import cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
)

metadata = MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
})

jobs = Table(
    "jobs", metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("priority", String(16), nullable=False),
    Column("caller", String(200), nullable=False),
    Column("model", String(300), nullable=False),
    Column("spec", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Float, nullable=False),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("error", Text),
    Column("error_status", Integer),
    Column("progress", Float, nullable=False, default=0.0),
    Column("metrics", Text, nullable=False, default="{}"),
    Column("created_at", String(32), nullable=False),
    Column("started_at", String(32)),
    Column("finished_at", String(32)),
    Column("owner", String(32)),
    Column("shape", String(100), nullable=False, server_default=""),
    Column("pictures", Integer, nullable=False, server_default="1"),
    Column("steps", Integer, nullable=False, server_default="0"),
)
IS_QUEUED = jobs.c.state == literal_column("'queued'")
"""Spelled out, not bound: only so can a planner see that a partial index holds what is asked for, and is not
tempted by another one."""
IS_BEGUN = jobs.c.state != literal_column("'queued'")
IS_RUNNING = jobs.c.state == literal_column("'running'")
Index(None, jobs.c.caller, jobs.c.seq)

queue_lines = Table(
    "queue_lines", metadata,
    Column("priority", String(16), primary_key=True),
    Column("caller", String(200), primary_key=True),
    Column("model", String(300), primary_key=True),
    Column("shape", String(100), primary_key=True),
    Column("queued", BigInteger, nullable=False),
    Column("pictures", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
)
"""What waits, counted, so that nobody has to count the jobs. Changed in the transaction that changes a job's state."""

gateways = Table(
    "gateways", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(300), nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("leaving", Boolean, nullable=False),
    Column("started_at", String(32), nullable=False),
)
"""Who runs jobs. `beat` is a count, not a time: each gateway judges it by its own monotonic clock."""

artifacts = Table(
    "artifacts", metadata,
    Column("id", String(48), primary_key=True),
    Column("job_id", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("media_type", String(100), nullable=False),
    Column("seed", BigInteger),
    Column("width", Integer),
    Column("height", Integer),
    Column("created_at", String(32), nullable=False),
)
Index(None, artifacts.c.job_id, artifacts.c.position, unique=True)

measurements = Table(
    "measurements", metadata,
    Column("model", String(300), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("shape", String(100), primary_key=True),
    Column("value", Float, nullable=False),
    Column("count", Integer, nullable=False),
    Column("updated_at", String(32), nullable=False),
)

api_keys = Table(
    "api_keys", metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("tokens_per_minute", Integer),
    Column("pictures_per_hour", Integer),
    Column("max_queued", Integer),
    Column("weight", Integer, nullable=False, default=1),
    Column("created_at", String(32), nullable=False),
    Column("rotated_at", String(32)),
    Column("expires_at", String(32)),
    Column("revoked_at", String(32)),
)

key_usage = Table(
    "key_usage", metadata,
    Column("key_id", String(16), ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("available", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)


@cache
def whole_metadata() -> MetaData:
    """The tables with all their indexes. Queries need no indexes, and to tell partial ones loads PostgreSQL's dialect,
    which would be a part of the time that a start takes."""
    Index("ix_jobs_line", jobs.c.priority, jobs.c.caller, jobs.c.model, jobs.c.seq,
          sqlite_where=IS_QUEUED, postgresql_where=IS_QUEUED)
    Index("ix_jobs_running", jobs.c.owner, sqlite_where=IS_RUNNING, postgresql_where=IS_RUNNING)
    Index("ix_jobs_begun", jobs.c.state, jobs.c.seq, sqlite_where=IS_BEGUN, postgresql_where=IS_BEGUN)
    return metadata
