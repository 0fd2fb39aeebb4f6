"""What waits: counters per line, the first job of every line, places. A *line* is all that one caller has queued of
one class, model and picture size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select, text, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping

from diptych.core.jobs import Job, Priority
from diptych.core.specs import ImageSpec
from diptych.store.database import Database
from diptych.store.records import job_of
from diptych.store.tables import IS_QUEUED, jobs, queue_lines

CHUNK = 100
"""Selects in one compound statement; SQLite takes at most 500."""


class LineKey(NamedTuple):
    """Sorts, so that all transactions lock the counters in one order and none waits for another in a circle."""

    priority: str
    caller: str
    model: str
    shape: str


class Amount(NamedTuple):
    """Jobs, their pictures, and the sampler steps of all those pictures."""

    queued: int
    pictures: int
    steps: int


@dataclass(frozen=True)
class Line:
    """What waits of one class, caller, model and size (`shape`: "WxH" in pixels)."""

    priority: Priority
    caller: str
    model: str
    shape: str
    queued: int
    pictures: int
    steps: int


@dataclass(frozen=True)
class Waiting:
    """A queued job, as much of it as its place depends on. `seq` grows with every job that is accepted."""

    seq: int
    id: str
    priority: Priority
    caller: str
    model: str


_BRIEF = (jobs.c.seq, jobs.c.id, jobs.c.priority, jobs.c.caller, jobs.c.model)


def size_of(spec: ImageSpec) -> dict[str, Any]:
    """What a job's row says about its work."""
    return {"shape": f"{spec.width}x{spec.height}", "pictures": spec.count, "steps": spec.steps * spec.count}


def change_of(row: Mapping[str, Any] | RowMapping, sign: int) -> tuple[LineKey, Amount]:
    """What a job adds (1) to the counters of its line, or takes away (-1)."""
    key = LineKey(row["priority"], row["caller"], row["model"], row["shape"])
    return key, Amount(sign, sign * row["pictures"], sign * row["steps"])


def count(connection: Connection, changes: Iterable[tuple[LineKey, Amount]]) -> None:
    """Add to the counters, within the transaction that changes the jobs."""
    total: dict[LineKey, Amount] = {}
    for key, amount in changes:
        old = total.get(key, Amount(0, 0, 0))
        total[key] = Amount(old.queued + amount.queued, old.pictures + amount.pictures, old.steps + amount.steps)
    if total:
        rows = [{**key._asdict(), **total[key]._asdict()} for key in sorted(total)]
        connection.execute(_ADD[connection.dialect.name], rows)


def _upsert(dialect: Any) -> Any:
    statement = dialect.insert(queue_lines)
    added = {name: queue_lines.c[name] + statement.excluded[name] for name in Amount._fields}
    return statement.on_conflict_do_update(index_elements=list(LineKey._fields), set_=added)


_ADD = {"sqlite": _upsert(sqlite), "postgresql": _upsert(postgresql)}
_TOTAL = select(func.coalesce(func.sum(queue_lines.c.queued), 0))


def queued_total(connection: Connection) -> int:
    return int(connection.scalar(_TOTAL) or 0)


def _heads() -> Select[Any]:
    line = select(queue_lines.c.priority, queue_lines.c.caller, queue_lines.c.model).where(
        queue_lines.c.queued > 0).distinct().subquery("line")
    inner = jobs.alias("inner_jobs")
    first = select(inner.c.seq).where(
        inner.c.state == IS_QUEUED.right, inner.c.priority == line.c.priority, inner.c.caller == line.c.caller,
        inner.c.model == line.c.model).order_by(inner.c.seq).limit(1).scalar_subquery()
    return select(*_BRIEF).where(jobs.c.seq.in_(select(first).select_from(line)), IS_QUEUED).order_by(jobs.c.seq)


_HEADS = _heads()


class QueueReader:
    """Questions about what waits. None of them reads the whole queue."""

    database: Database

    def lines(self) -> list[Line]:
        """All lines in which something waits."""
        query = select(queue_lines).where(queue_lines.c.queued > 0)
        with self.database.read() as connection:
            return [Line(**{**row, "priority": Priority(row["priority"])})
                    for row in connection.execute(query).mappings()]

    def heads(self) -> list[Waiting]:
        """For every priority, caller and model, the queued job that came first."""
        with self.database.read() as connection:
            return _brief(connection.execute(_HEADS))

    def waiting(self, ids: Iterable[str]) -> list[Waiting]:
        """Those of `ids` that are queued."""
        with self.database.read() as connection:
            return _brief(connection.execute(select(*_BRIEF).where(jobs.c.id.in_(list(ids)), IS_QUEUED)))

    def ranks(self, waiting: Iterable[Waiting]) -> dict[str, int]:
        """For each of these jobs, how many of the same class and caller came before it. A line is read once, up to the
        last of its jobs that is asked for."""
        ranks: dict[str, int] = {}
        order = sorted(waiting, key=lambda job: (job.priority.value, job.caller, job.seq))
        with self.database.read() as connection:
            for (priority, caller), group in groupby(order, key=lambda job: (job.priority.value, job.caller)):
                before, after = 0, -1
                for job in group:
                    before += connection.scalar(select(func.count()).select_from(jobs).where(
                        IS_QUEUED, jobs.c.priority == priority, jobs.c.caller == caller, jobs.c.seq > after,
                        jobs.c.seq < job.seq)) or 0
                    ranks[job.id] = before
                    before, after = before + 1, job.seq
        return ranks

    def first_of(self, wanted: Mapping[tuple[Priority, str], int]) -> list[Job]:
        """The first so many queued jobs of each class and caller, in the order of their arrival, without artifacts."""
        parts = [
            select(select(jobs.c.seq).where(IS_QUEUED, jobs.c.priority == priority.value, jobs.c.caller == caller)
                   .order_by(jobs.c.seq).limit(number).subquery())
            for (priority, caller), number in wanted.items() if number > 0]
        found: list[Job] = []
        with self.database.read() as connection:
            for start in range(0, len(parts), CHUNK):
                seqs = union_all(*parts[start:start + CHUNK]).subquery()
                rows = connection.execute(select(jobs).join(seqs, seqs.c.seq == jobs.c.seq).order_by(jobs.c.seq))
                found += [job_of(row) for row in rows.mappings()]
        return sorted(found, key=lambda job: job.id) if len(parts) > CHUNK else found

    def queued(self) -> list[Job]:
        """All queued jobs in the order of their arrival, without artifacts. Reads them all: for tests and tools."""
        with self.database.read() as connection:
            return [job_of(row) for row in connection.execute(
                select(jobs).where(IS_QUEUED).order_by(jobs.c.seq)).mappings()]

    def queue_lengths(self) -> dict[Priority, int]:
        """How many jobs wait, by class."""
        query = select(queue_lines.c.priority, func.sum(queue_lines.c.queued)).group_by(queue_lines.c.priority)
        with self.database.read() as connection:
            found = {Priority(priority): int(number) for priority, number in connection.execute(query)}
        return {priority: found.get(priority, 0) for priority in Priority}

    def recount(self) -> None:
        """Count what waits anew. For a start: it mends whatever another version or a hand has done to the tables."""
        with self.database.write() as connection:
            if not self.database.is_sqlite:
                # Whoever changes a counter now waits, and adds to the new numbers.
                connection.execute(text("LOCK TABLE queue_lines IN EXCLUSIVE MODE"))
            connection.execute(queue_lines.delete())
            keys = (jobs.c.priority, jobs.c.caller, jobs.c.model, jobs.c.shape)
            connection.execute(queue_lines.insert().from_select(
                [*LineKey._fields, *Amount._fields],
                select(*keys, func.count(), func.sum(jobs.c.pictures), func.sum(jobs.c.steps)).where(IS_QUEUED)
                .group_by(*keys)))


def _brief(rows: Iterable[Any]) -> list[Waiting]:
    return [Waiting(seq, id, Priority(priority), caller, model) for seq, id, priority, caller, model in rows]
