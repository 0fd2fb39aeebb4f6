"""This gateway among others: it shows that it lives, takes back what dead ones ran, and hears what is wished of its own
jobs through the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Collection
from typing import Protocol

from diptych.core.errors import DiptychError
from diptych.settings import Settings
from diptych.store.gateways import Gateways
from diptych.store.jobs import JobStore, new_id
from diptych.store.seat import Seat

BEATS = 6
"""So many of its beats have to be missed before a gateway is taken for dead."""
LONGEST_BEAT = 2.0
"""Seconds between two looks at the jobs that run here, at most."""

log = logging.getLogger("diptych.gateway")


class Runs(Protocol):
    """What the heart may ask of the dispatcher."""

    def held(self) -> Collection[str]:
        """Jobs that run here or are just being claimed."""

    def cancel_here(self, id: str) -> None:
        """Cancel the run of a job."""

    async def drop_all(self) -> None:
        """End all runs, and tell nobody: their jobs are others' now."""

    def look(self) -> None:
        """The queue may have changed."""


class Silence:
    """How long each other gateway's count has not moved, on this process's own clock.

    A pause of this process, or of the whole machine, counts as one beat at most: the others may have paused with it.
    """

    def __init__(self, lease_seconds: float, beat_seconds: float) -> None:
        self._lease, self._longest = lease_seconds, 2 * beat_seconds
        self._seen: dict[str, tuple[int, float]] = {}
        self._last: float | None = None

    def look(self, beats: dict[str, int], now: float) -> dict[str, int]:
        """Those that have been silent for longer than the lease, with the count at which they stand.

        Args:
            beats: the counts of the other gateways.
            now: seconds of a monotonic clock.
        """
        passed = 0.0 if self._last is None else min(now - self._last, self._longest)
        self._last = now
        seen: dict[str, tuple[int, float]] = {}
        for id, beat in beats.items():
            old, silent = self._seen.get(id, (None, 0.0))
            seen[id] = (beat, silent + passed if old == beat else 0.0)
        self._seen = seen
        return {id: beat for id, (beat, silent) in seen.items() if silent > self._lease}


class Heart:
    """`start` before the queue is served, `stop` after the runs have ended."""

    def __init__(self, settings: Settings, store: JobStore, runs: Runs) -> None:
        self._store, self._runs = store, runs
        self._gateways = Gateways(store.database)
        self._seat = Seat(settings.data_dir, settings.url)
        self._beat_seconds = min(settings.gateway_lease_seconds / BEATS, LONGEST_BEAT)
        self._silence = Silence(settings.gateway_lease_seconds, self._beat_seconds)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._stray: set[tuple[str, int]] = set()
        self.others = 0
        """How many other gateways share the queue."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises Unavailable: another gateway works on this data folder, or the database cannot be used."""
        again, ended = await asyncio.to_thread(self._begin)
        if again or ended:
            log.warning("after an unclean end: %d jobs queued again, %d ended", again, ended)
        self._task = asyncio.create_task(self._main())

    async def leaving(self) -> None:
        """Say that this gateway was told to end."""
        with contextlib.suppress(DiptychError):
            await asyncio.to_thread(self._gateways.leaving, self._store.owner)

    async def stop(self) -> None:
        """What is still noted as running here, in spite of all, is given back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            try:
                await asyncio.to_thread(self._gateways.bury, self._store.owner)
            except DiptychError as error:
                log.error("this gateway could not sign off: %s", error.message)
        self._seat.leave()

    def _begin(self) -> tuple[int, int]:
        store, gateways = self._store, self._gateways
        before = self._seat.take(store.owner)
        try:
            # Who holds the lock of an SQLite file is its only gateway; who holds a data folder's is that folder's.
            dead = list(gateways.beats()) if store.database.is_sqlite else [before] if before else []
            settled = [gateways.bury(id) or (0, 0) for id in dead]
            gateways.join(store.owner, self._name)
            store.joined = True
            settled.append(store.recover())
            store.recount()
            self.others = len(gateways.beats()) - 1
        except BaseException:
            self._seat.leave()
            raise
        return sum(again for again, _ in settled), sum(ended for _, ended in settled)

    async def _main(self) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds)
            try:
                if not self._store.database.is_sqlite:
                    await self._show_life()
                await self._hear()
            except DiptychError as error:
                log.error("the database could not be asked about this gateway: %s", error.message)
            except Exception:
                log.exception("this gateway's place among others could not be kept")

    async def _show_life(self) -> None:
        if not await asyncio.to_thread(self._gateways.beat, self._store.owner):
            log.error("this gateway was taken for dead: what it ran is others' now, it begins anew")
            await self._runs.drop_all()
            self._store.owner = new_id()
            await asyncio.to_thread(self._gateways.join, self._store.owner, self._name)
        again, ended = await asyncio.to_thread(self._bury_the_silent)
        if again or ended:
            log.warning("of gateways that ended: %d jobs queued again, %d ended", again, ended)
            self._runs.look()

    def _bury_the_silent(self) -> tuple[int, int]:
        beats = self._gateways.beats()
        beats.pop(self._store.owner, None)
        self.others = len(beats)
        settled = [self._store.recover()]
        for id, beat in self._silence.look(beats, time.monotonic()).items():
            settled.append(self._gateways.bury(id, beat) or (0, 0))
        return sum(again for again, _ in settled), sum(ended for _, ended in settled)

    async def _hear(self) -> None:
        """Cancels asked for elsewhere; jobs that are noted as running here and do not run: their end could not be
        written, or nobody heard of their claim."""
        before = set(self._runs.held())
        noted = await asyncio.to_thread(self._store.running_here)
        held = before | set(self._runs.held())
        for id, (_, cancel) in noted.items():
            if cancel and id in held:
                self._runs.cancel_here(id)
        stray = {(id, attempt) for id, (attempt, _) in noted.items() if id not in held}
        for id, attempt in stray & self._stray:
            if await asyncio.to_thread(self._store.requeue, id, attempt=attempt):
                log.warning("job %s did not run any more and is queued again", id)
                self._runs.look()
        self._stray = stray


