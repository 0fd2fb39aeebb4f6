"""Models that are being pulled into the library, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from diptych.core.cards import Card
from diptych.library import pull
from diptych.settings import Settings


class Pulls:
    """One pull per model at a time; whoever asks for the same model joins it. Goes on when nobody waits any more.
    Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, _Pull] = {}

    async def result(self, model: str) -> Card:
        """The card, once the model is there. Raises NotFound, Unavailable."""
        return await asyncio.shield(self._begin(model).task)

    async def lines(self, model: str) -> AsyncGenerator[str | Card, None]:
        """A line for everything that begins or is done, the card at the end. Raises as `result` does."""
        pulling = self._begin(model)
        told = 0
        while not pulling.task.done() or told < len(pulling.lines):
            changed = pulling.changed
            while told < len(pulling.lines):
                yield pulling.lines[told]
                told += 1
            if not pulling.task.done():
                await changed.wait()
        yield await pulling.task

    def _begin(self, model: str) -> _Pull:
        if model not in self._running:
            pulling = self._running[model] = _Pull(model, self._settings)
            pulling.task.add_done_callback(lambda _: self._running.pop(model, None))
        return self._running[model]


class _Pull:
    def __init__(self, model: str, settings: Settings) -> None:
        self.lines: list[str] = []
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.ensure_future(asyncio.to_thread(pull, model, settings, self._tell))
        self.task.add_done_callback(self._ended)

    def _tell(self, line: str) -> None:
        """From the thread that pulls."""
        self._loop.call_soon_threadsafe(self._add, line)

    def _add(self, line: str) -> None:
        self.lines.append(line)
        self._wake()

    def _ended(self, task: asyncio.Future[Card]) -> None:
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
