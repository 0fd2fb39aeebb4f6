"""A thread beside the batcher's in which pictures are finished: a step of others never waits for an upscaler."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)
Work = Callable[[], None]
"""Done in the thread. It tells what came of it by itself, and raises nothing."""


class FinishWorker:
    """Does one piece of work after the other, until closed.

    Args:
        threads: how many of torch's each piece may use, asked before it begins.
    """

    def __init__(self, threads: Callable[[], int]) -> None:
        self._threads = threads
        self._waiting: queue.Queue[Work | None] = queue.Queue()
        self._thread = threading.Thread(target=self._main, name="image-finish", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Have it done after what waits already."""
        self._waiting.put(work)

    def close(self) -> None:
        """Do no more than what is being done now. Whoever put more has told its end otherwise."""
        self._waiting.put(None)
        self._thread.join()

    def _main(self) -> None:
        while (work := self._waiting.get()) is not None:
            torch.set_num_threads(self._threads())
            try:
                work()
            except Exception:
                log.exception("a picture could not be finished")


class Errands:
    """What other threads leave for the batcher's."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._left: deque[Work] = deque()
        self._wake = wake

    def leave(self, errand: Work) -> None:
        """Any thread."""
        self._left.append(errand)
        self._wake()

    def __bool__(self) -> bool:
        return bool(self._left)

    def run(self) -> None:
        """The batcher's thread: all that were left so far."""
        for _ in range(len(self._left)):
            self._left.popleft()()
