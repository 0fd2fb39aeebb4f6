"""What keeps jobs from beginning. A job whose runner died of something has its last attempt alone, so that one that
kills whatever makes it takes no other down with it for good. And a full disk has all jobs wait."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

PROBE_BYTES = 256 * 1024
"""So much must fit on the disk before another picture is tried."""

STALE_SECONDS = 15.0
"""A suspect that waits asks again every few seconds; one that does not was cancelled."""

log = logging.getLogger("diptych.suspects")


class Suspects:
    """Belongs to one event loop. Not kept over the gateway's end, which may have been what ended the runners, too."""

    def __init__(self) -> None:
        self._alone: set[str] = set()
        self._waits: dict[str, tuple[str, float]] = {}

    def learn(self, job: str, attempts: int, max_attempts: int, tried_again: bool) -> None:
        """What an attempt came to: `tried_again` where its runner died and the job is queued again."""
        self._alone.discard(job)
        if tried_again and attempts == max_attempts - 1:
            self._alone.add(job)

    def bears(self, job: str, model: str, others: Collection[str]) -> bool:
        """Whether `job` may begin in the runner of `model`, which works on `others`. Once a suspect was refused, nobody
        else is let in before it."""
        now = time.monotonic()
        if job in self._alone:
            if others:
                self._waits[model] = job, now
                return False
            self._waits.pop(model, None)
            return True
        first, since = self._waits.get(model, (job, now))
        return self._alone.isdisjoint(others) and (first == job or now - since > STALE_SECONDS)


class Disk:
    """Whether there is room for pictures. `full` is set when one could not be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.full = False

    def room(self) -> bool:
        """False while the disk is full, found out by writing to it. Blocks."""
        if self.full:
            try:
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
            except OSError as error:
                log.warning("no picture can be written, the queue waits: %s", error.strerror or error)
                return False
            self.full = False
        return True
