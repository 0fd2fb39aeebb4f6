"""Events on their way from an engine's threads to the one reader in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from diptych.core.events import Event, Failed, Finished, Metrics, Preview, Progress, TokenDelta

TEXT_SECONDS = 0.02
"""Between two pieces of text."""


class Mailbox:
    """A queue that any thread may fill and one coroutine empties.

    A slow reader does not make it grow: what is waiting is merged (text is joined, a newer progress or preview
    replaces the older one), so it holds at most one entry per picture and kind. Nothing is taken after the final event.

    Text is handed over at once when none was for `TEXT_SECONDS`, else when they are over: what a token costs on its
    way through two processes is then paid once for several, and nobody reads faster. The end is never held back.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._closed = False
        self._taken = 0.0
        self._rest: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event; never blocks. Safe from any thread, also after the reader has gone."""
        with self._lock:
            if self._closed:
                return
            self._closed = isinstance(event, (Finished, Failed))
            wake = self._closed or not self._waiting
            self._merge(event)
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop has ended: nobody reads any more
                self.close()

    async def take(self) -> list[Event]:
        """All events that wait, oldest first; waits until there is at least one."""
        while True:
            await self._filled.wait()
            await self._space_text()
            self._filled.clear()
            with self._lock:
                events = list(self._waiting)
                self._waiting.clear()
            if events:
                return events

    def _wake(self) -> None:
        """In the event loop: something waits; the end has it taken at once."""
        self._filled.set()
        if self._closed and self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    async def _space_text(self) -> None:
        """Wait for more where only text waits and some was handed over just now."""
        with self._lock:
            text = not self._closed and all(isinstance(event, TokenDelta) for event in self._waiting)
        left = self._taken + TEXT_SECONDS - self._loop.time()
        if text and left > 0:
            self._rest = self._loop.create_future()
            timer = self._loop.call_later(left, _end, self._rest)
            try:
                await self._rest
            finally:
                timer.cancel()
                self._rest = None
        self._taken = self._loop.time()

    def close(self) -> None:
        """Take nothing more and drop what waits."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _merge(self, event: Event) -> None:
        older = next((old for old in self._waiting if _merges(event, old)), None)
        if older is not None:
            self._waiting.remove(older)
            if isinstance(event, TokenDelta) and isinstance(older, TokenDelta):
                event = TokenDelta(text=older.text + event.text, logprobs=older.logprobs + event.logprobs)
            elif isinstance(event, Metrics) and isinstance(older, Metrics):
                event = Metrics(values={**older.values, **event.values})
        self._waiting.append(event)


def _merges(new: Event, old: Event) -> bool:
    if isinstance(new, Preview):
        return isinstance(old, Preview) and old.index == new.index
    return isinstance(new, (TokenDelta, Progress, Metrics)) and type(new) is type(old)


def _end(rest: asyncio.Future[None]) -> None:
    if not rest.done():
        rest.set_result(None)
