"""Runs that are painted one picture at a time, by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from diptych.core.errors import Conflict, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics
from diptych.engines.image.run import Run

Paint = Callable[[Run], Event | None]
"""Makes a run's next picture; returns how the run ends, or None while there are more."""


class PictureQueue:
    """Takes runs until closed. Each picture is the next one of the share that has waited longest, of its oldest run."""

    def __init__(self, paint: Paint, threads: int) -> None:
        self._paint = paint
        self.threads = threads
        self._runs: dict[str, Run] = {}
        self._served: dict[str, int] = {}
        self._turn = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="image-pipeline", daemon=True)
        self._thread.start()

    def add(self, run: Run) -> None:
        """Take a run; raises Conflict when one of the same id is there, Unavailable after `close`."""
        with self._wake:
            if self._closing:
                raise Unavailable("the image runner is stopping")
            if run.id in self._runs:
                raise Conflict(f"run {run.id!r} is already here", param="id")
            self._runs[run.id] = run
            self._wake.notify()

    def cancel(self, id: str) -> bool:
        """Have a run end between two steps; False if it is not here."""
        with self._wake:
            run = self._runs.get(id)
            if run is not None:
                run.cancelled = True
                self._wake.notify()
            return run is not None

    def close(self) -> None:
        """End all runs as failed but retryable, the one that is painted at its next step, and the thread."""
        with self._wake:
            self._closing = True
            for run in self._runs.values():
                run.cancelled = True
            self._wake.notify()
        self._thread.join()

    def _main(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or bool(self._runs))
                if self._closing:
                    break
                runs = list(self._runs.values())
            torch.set_num_threads(self.threads)
            for run in runs:
                if run.cancelled:
                    self._end(run, Finished(reason="cancelled"))
                elif run.complete:
                    self._end(run, run.end())
            waiting = [run for run in runs if not run.ended]
            if waiting:
                self._serve(min(waiting, key=lambda run: self._served.get(run.share, 0)))
        for run in list(self._runs.values()):
            self._end(run, self._stopping())

    def _serve(self, run: Run) -> None:
        self._turn += 1
        self._served[run.share] = self._turn
        last = self._paint(run)
        if last is not None:
            self._end(run, self._stopping() if self._closing else last)

    @staticmethod
    def _stopping() -> Failed:
        return Failed(message="the image runner is stopping", code="unavailable", retryable=True)

    def _end(self, run: Run, last: Event) -> None:
        """Forget a run and say how it ended."""
        with self._wake:
            self._runs.pop(run.id, None)
            if not any(other.share == run.share for other in self._runs.values()):
                self._served.pop(run.share, None)
        run.ended = True
        if isinstance(last, Finished):
            run.tell(Metrics(values=run.metrics()))
        run.tell(last)
        run.lanes.clear()
        run.waiting.clear()
