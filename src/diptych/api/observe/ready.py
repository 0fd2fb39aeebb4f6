"""Whether the server can take work now."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from diptych.api.observe.lifecycle import Lifecycle
from diptych.core.errors import DiptychError
from diptych.schedule.dispatcher import Dispatcher
from diptych.settings import Settings
from diptych.store.database import Database
from diptych.store.measurements import Measurements

PROBE_SECONDS = 3.0
"""How long the database may take for one small write."""
FRESH_SECONDS = 1.0
"""Age up to which the answer of the last look still holds, so that asking often costs nothing."""
BEAT_SECONDS = 30.0
"""The dispatcher's loop comes round every five seconds at the latest, when the database answers."""


class Readiness:
    """Belongs to one event loop. Each check is "ok" or says in a line what is wrong."""

    def __init__(self, settings: Settings, database: Database, dispatcher: Dispatcher, lifecycle: Lifecycle) -> None:
        self._settings, self._dispatcher, self._lifecycle = settings, dispatcher, lifecycle
        self._measurements = Measurements(database)
        self._probe: asyncio.Task[str] | None = None
        self._probed = 0.0

    async def checks(self) -> dict[str, str]:
        return {
            "accepting": "the server ends" if self._lifecycle.draining else "ok",
            "database": await self._database(),
            "dispatcher": self._loop(),
            "disk": await asyncio.to_thread(self._disk),
        }

    async def _database(self) -> str:
        # One at a time: a database that hangs must not take all of the threads.
        if self._probe is None or (self._probe.done() and time.monotonic() - self._probed > FRESH_SECONDS):
            self._probe = asyncio.create_task(self._write())
        done, _ = await asyncio.wait([self._probe], timeout=PROBE_SECONDS)
        return self._probe.result() if done else f"no write was done within {PROBE_SECONDS:g} s"

    async def _write(self) -> str:
        try:
            await asyncio.to_thread(self._measurements.record, "gateway", "ready", "write", 1.0)
        except DiptychError as error:
            return error.message
        except Exception as error:
            return f"the write failed: {type(error).__name__}"
        finally:
            self._probed = time.monotonic()
        return "ok"

    def _loop(self) -> str:
        age = time.monotonic() - self._dispatcher.beat
        return "ok" if age < BEAT_SECONDS else f"its loop last came round {age:.0f} s ago"

    def _disk(self) -> str:
        least = self._settings.min_free_bytes
        for folder in (self._settings.data_dir, self._settings.artifacts_dir):
            free = _free(folder)
            if isinstance(free, str):
                return free
            if free < least:
                return (f"{free / 2**20:.0f} MiB are free for the {folder.name} folder, at least {least / 2**20:.0f} "
                        "must be (min_free_bytes)")
        return "ok"


def _free(folder: Path) -> int | str:
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        return f"the {folder.name} folder cannot be looked at: {error.strerror}"
