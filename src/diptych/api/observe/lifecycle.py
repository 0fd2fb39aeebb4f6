"""From serving to the end: what is accepted, what still runs, and when the answers that are left are broken off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator

from diptych.core.endings import until_set
from diptych.core.events import Event, Failed, Finished
from diptych.schedule.dispatcher import Dispatcher

LOOK_SECONDS = 0.05
log = logging.getLogger("diptych.server")


class Lifecycle:
    """Belongs to one event loop. `draining`: nothing new is accepted; `ending`: answers are broken off.

    Args:
        grace_seconds: how long what runs may go on after the server was told to end.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._deadline: float | None = None
        self._hurried = False
        self.ending = asyncio.Event()
        self.answers = 0

    @property
    def draining(self) -> bool:
        return self._deadline is not None

    @property
    def retry_after(self) -> int:
        """Seconds after which a client may look for the next server."""
        left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        return max(1, round(left) + 1)

    def hurry(self) -> None:
        """Wait no longer. Safe from a signal handler."""
        self._hurried = True

    async def drain(self, dispatcher: Dispatcher) -> None:
        """Let what runs come to its end, within the grace time; then tell the answers that are left to end."""
        self._deadline = time.monotonic() + self._grace
        dispatcher.drain()
        if dispatcher.executions or self.answers:
            log.info("ending: %d jobs and %d answers may go on for %g s; a second signal ends at once",
                     dispatcher.executions, self.answers, self._grace)
        # Looked at again and again: a signal handler cannot wake an event loop in a way that works on all systems.
        while (dispatcher.executions or self.answers) and time.monotonic() < self._deadline and not self._hurried:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        if dispatcher.executions or self.answers:
            log.warning("ending: %d jobs go back into the queue, %d answers are broken off",
                        dispatcher.executions, self.answers)
        self.ending.set()


async def until_ending(source: AsyncGenerator[Event, None], ending: asyncio.Event) -> AsyncGenerator[Event, None]:
    """The source's events; when `ending` is set first, a `Failed` instead of those that are missing."""
    last: Event | None = None
    async with contextlib.aclosing(until_set(source, ending)) as events:
        async for last in events:
            yield last
    if ending.is_set() and not isinstance(last, Finished | Failed):
        yield Failed(message="the server ends; ask again when it is back", status=503, code="server_ending")
