"""Accepting jobs: all that are handed in while the database is busy with others go into its next transaction."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from diptych.core.errors import DiptychError, TooLarge, Unavailable
from diptych.store.database import Database
from diptych.store.lines import change_of, count, queued_total
from diptych.store.tables import jobs

BATCH = 500
"""Most jobs of one transaction."""


@dataclass(eq=False)
class Entry:
    """One job to be accepted; `error` says why it was not."""

    values: dict[str, Any]
    limit: int
    settled: bool = False
    error: DiptychError | None = field(default=None)


class Intake:
    """Safe from any thread. Nobody waits for others to come: the first of those who wait writes for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Entry] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def put(self, entry: Entry) -> None:
        """Returns when the job is committed. Raises TooLarge, Unavailable."""
        with self._lock:
            self._waiting.append(entry)
        with self._writing:
            while not entry.settled:
                with self._lock:
                    batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                self._write(batch)
        if entry.error is not None:
            raise entry.error

    def _write(self, batch: list[Entry]) -> None:
        try:
            with self._database.write() as connection:
                taken = _admitted(batch, queued_total(connection))
                if taken:
                    connection.execute(jobs.insert(), [entry.values for entry in taken])
                    count(connection, [change_of(entry.values, 1) for entry in taken])
        except Exception as error:
            for entry in batch:
                entry.error = entry.error or Unavailable(
                    error.message if isinstance(error, DiptychError) else "the database could not be used",
                    code="database")
            if not isinstance(error, DiptychError):
                raise
        finally:
            for entry in batch:
                entry.settled = True


def _admitted(batch: list[Entry], queued: int) -> list[Entry]:
    taken: list[Entry] = []
    for entry in batch:
        if queued + len(taken) >= entry.limit:
            entry.error = TooLarge(
                f"the queue is full: {queued + len(taken)} jobs wait, at most {entry.limit} may", code="queue_full")
        else:
            taken.append(entry)
    return taken
