"""Which gateways live, so that what a dead one ran can be taken back.

A gateway proves its life by counting (`beat`). Nobody compares clocks of two machines: others see that the count does
not move and judge that by their own monotonic clock. Taking a gateway for dead removes its row in one transaction with
giving its jobs back; from then on it owns nothing, even if it lives.
"""

from __future__ import annotations

from sqlalchemy import select, update

from diptych.store.database import Database
from diptych.store.jobs import give_back
from diptych.store.records import now
from diptych.store.tables import gateways, jobs


class Gateways:
    """The gateways of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(self, id: str, name: str) -> None:
        """From now on `id` may own jobs, until it leaves or is buried."""
        with self._database.write() as connection:
            connection.execute(gateways.insert().values(id=id, name=name, beat=0, leaving=False, started_at=now()))

    def beat(self, id: str) -> bool:
        """Count once more. False: this gateway was taken for dead, and what it ran is no longer its own."""
        with self._database.write() as connection:
            done = connection.execute(update(gateways).where(gateways.c.id == id).values(beat=gateways.c.beat + 1))
            return done.rowcount == 1

    def beats(self) -> dict[str, int]:
        """The counts of all gateways."""
        with self._database.read() as connection:
            rows = connection.execute(select(gateways.c.id, gateways.c.beat))
            return {row.id: row.beat for row in rows}

    def names(self) -> dict[str, str]:
        """What each gateway calls itself."""
        with self._database.read() as connection:
            rows = connection.execute(select(gateways.c.id, gateways.c.name))
            return {row.id: row.name for row in rows}

    def leaving(self, id: str) -> None:
        """Note that it was told to end: should it be killed before it has put its jobs back, their attempts do not
        count."""
        with self._database.write() as connection:
            connection.execute(update(gateways).where(gateways.c.id == id).values(leaving=True))

    def bury(self, id: str, beat: int | None = None) -> tuple[int, int] | None:
        """Take a gateway for dead: its jobs are queued again or end, as in `JobStore.recover`.

        Args:
            beat: only if its count is still this one.

        Returns:
            `(queued again, ended)`; None when it lives or is gone already.
        """
        with self._database.write() as connection:
            row = connection.execute(
                select(gateways.c.beat, gateways.c.leaving).where(gateways.c.id == id).with_for_update()).one_or_none()
            if row is None or (beat is not None and row.beat != beat):
                return None
            connection.execute(gateways.delete().where(gateways.c.id == id))
            return give_back(connection, jobs.c.owner == id, uncount=row.leaving)
