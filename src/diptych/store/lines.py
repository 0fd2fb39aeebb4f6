"""What waits: counters per line, the first job of every line, places. A *line* is all that one caller has queued of
one class, model and picture size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, literal, select, text, true, union_all
from sqlalchemy.engine import RowMapping

from diptych.core.jobs import Job, Priority
from diptych.core.painting import shape_of, steps_of
from diptych.core.specs import JobSpec
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
    """A queued job, as much of it as its place depends on. `seq` grows with every job that is accepted; `shape` is
    "WxH" in pixels."""

    seq: int
    id: str
    priority: Priority
    caller: str
    model: str
    shape: str


_BRIEF = (jobs.c.seq, jobs.c.id, jobs.c.priority, jobs.c.caller, jobs.c.model, jobs.c.shape)


def size_of(spec: JobSpec) -> dict[str, Any]:
    """What a job's row says about its work."""
    return {"shape": shape_of(spec), "pictures": spec.count, "steps": steps_of(spec) * spec.count}


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
        connection.execute(_add(connection.dialect.name), rows)


def with_one_less(taken: Any) -> Any:
    """A statement that takes at most one job and returns its row, made to count that as well (PostgreSQL).

    It does not wait for the disk: should the database's machine lose power in that moment, the job is queued as before,
    and what this attempt makes is refused.
    """
    found = taken.cte("taken")
    less = [found.c.priority, found.c.caller, found.c.model, found.c.shape, literal(-1), -found.c.pictures,
            -found.c.steps]
    counted = _upsert("postgresql", select(*less)).cte("counted")
    hurry = func.set_config("synchronous_commit", "off", True).label("hurry")
    return select(*found.c, hurry).add_cte(counted)


def _upsert(dialect: str, rows: Any = None) -> Any:
    # Only the one that is used is imported: PostgreSQL's is a part of the time that a start takes.
    statement = import_module(f"sqlalchemy.dialects.{dialect}").insert(queue_lines)
    if rows is not None:
        statement = statement.from_select([*LineKey._fields, *Amount._fields], rows)
    added = {name: queue_lines.c[name] + statement.excluded[name] for name in Amount._fields}
    return statement.on_conflict_do_update(index_elements=list(LineKey._fields), set_=added)


@cache
def _add(dialect: str) -> Any:
    return _upsert(dialect)


_TOTAL = select(func.coalesce(func.sum(queue_lines.c.queued), 0))


def queued_total(connection: Connection) -> int:
    return int(connection.scalar(_TOTAL) or 0)


@cache
def _heads(dialect: str) -> Select[Any]:
    line = select(queue_lines.c.priority, queue_lines.c.caller, queue_lines.c.model).where(
        queue_lines.c.queued > 0).distinct().subquery("line")
    one = jobs.alias("one")
    first = select(*(one.c[column.name] for column in _BRIEF)).where(
        one.c.state == IS_QUEUED.right, one.c.priority == line.c.priority, one.c.caller == line.c.caller,
        one.c.model == line.c.model).order_by(one.c.seq).limit(1)
    if dialect == "postgresql":  # its planner would read all jobs for the other form
        found = first.lateral("first")
        return select(found).select_from(line.join(found, true())).order_by(found.c.seq)
    seqs = select(first.with_only_columns(one.c.seq).scalar_subquery()).select_from(line)
    return select(*_BRIEF).where(jobs.c.seq.in_(seqs), IS_QUEUED).order_by(jobs.c.seq)


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
            return _brief(connection.execute(_heads(connection.dialect.name)))

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
            models = _models(connection)
            for (priority, caller), group in groupby(order, key=lambda job: (job.priority.value, job.caller)):
                before, after = 0, -1
                for job in group:
                    # The models are named so that the lines' index can be used.
                    before += connection.scalar(select(func.count()).select_from(jobs).where(
                        IS_QUEUED, jobs.c.priority == priority, jobs.c.caller == caller,
                        jobs.c.model.in_(models.get((priority, caller), [job.model])), jobs.c.seq > after,
                        jobs.c.seq < job.seq)) or 0
                    ranks[job.id] = before
                    before, after = before + 1, job.seq
        return ranks

    def first_of(self, wanted: Mapping[tuple[Priority, str], int]) -> list[Job]:
        """The first so many queued jobs of each class and caller, without artifacts; those of one caller in the order
        of their arrival."""
        with self.database.read() as connection:
            models = _models(connection)
            parts = [
                (priority.value, caller, model, number) for (priority, caller), number in wanted.items() if number > 0
                for model in models.get((priority.value, caller), [])]
            left = {(priority.value, caller): number for (priority, caller), number in wanted.items()}
            found: list[tuple[int, str, str]] = []
            for start in range(0, len(parts), CHUNK):
                rows = connection.execute(union_all(*(_firsts(*part) for part in parts[start:start + CHUNK])))
                found += [(row[0], row[1], row[2]) for row in rows]
            seqs: list[int] = []
            for seq, name, caller in sorted(found):
                if left[name, caller] > 0:
                    left[name, caller] -= 1
                    seqs.append(seq)
            query = select(jobs).where(jobs.c.seq.in_(seqs), IS_QUEUED).order_by(jobs.c.seq)
            return [job_of(row) for row in connection.execute(query).mappings()]

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
            if not self.database.is_sqlite:
                connection.execute(text("ANALYZE jobs, queue_lines"))  # a planner that knows nothing reads all jobs


def _firsts(priority: str, caller: str, model: str, number: int) -> Select[Any]:
    line = select(jobs.c.seq, jobs.c.priority, jobs.c.caller).where(
        IS_QUEUED, jobs.c.priority == priority, jobs.c.caller == caller, jobs.c.model == model)
    return select(line.order_by(jobs.c.seq).limit(number).subquery())


def _models(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """By class and caller, of what models something waits."""
    found: dict[tuple[str, str], list[str]] = {}
    query = select(queue_lines.c.priority, queue_lines.c.caller, queue_lines.c.model).where(
        queue_lines.c.queued > 0).distinct()
    for priority, caller, model in connection.execute(query):
        found.setdefault((priority, caller), []).append(model)
    return found


def _brief(rows: Iterable[Any]) -> list[Waiting]:
    return [Waiting(seq, id, Priority(priority), caller, model, shape)
            for seq, id, priority, caller, model, shape in rows]
