"""An image engine to test, and what it tells about its runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.core.cards import Card
from diptych.core.events import ArtifactReady, Event, Failed, Finished
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.engine import ImageEngine


def card_of(folder: Path, **changes: Any) -> Card:
    return Card(id=folder.name, panel="image", family="sd1", format="diffusers", path=str(folder), bytes=1,
                fingerprint="0123abcd", **changes)


class Recorder:
    """Collects the events of one run."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._queue: queue.Queue[Event] = queue.Queue()
        self.threads: set[int] = set()

    def __call__(self, event: Event) -> None:
        self.threads.add(threading.get_ident())
        self._queue.put(event)

    def until(self, wanted: Callable[[Event], bool], timeout: float = 120) -> Event:
        """The first event, from now on, that is wanted."""
        while True:
            event = self._queue.get(timeout=timeout)
            self.events.append(event)
            if wanted(event):
                return event

    def take(self) -> None:
        """Record what was told so far, without waiting."""
        while not self._queue.empty():
            self.events.append(self._queue.get())

    def last(self) -> Event:
        """Waits for the end; returns `Finished` or `Failed`."""
        return self.until(lambda event: isinstance(event, Finished | Failed))

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def idle(self) -> bool:
        return self._queue.empty()


class Studio:
    """An engine with a model, and folders for its jobs."""

    def __init__(self, folder: Path, out: Path, **options: Any) -> None:
        self.engine = ImageEngine()
        self.card = card_of(folder)
        self.out = out
        self._count = 0
        self.engine.load(LoadRequest(card=self.card, threads=1, options=options))

    def submit(self, spec: ImageSpec, id: str | None = None, **fields: Any) -> tuple[str, Recorder]:
        self._count += 1
        id = id or f"run-{self._count}"
        recorder = Recorder()
        self.engine.submit(RunRequest(id=id, spec=spec, output_dir=str(self.out / id), **fields), recorder)
        return id, recorder

    def pictures(self, recorder: Recorder) -> list[np.ndarray]:
        """Waits for the end and reads the pictures, by index."""
        last = recorder.last()
        assert isinstance(last, Finished), last
        ready = sorted(recorder.of(ArtifactReady), key=lambda event: event.index)
        return [np.asarray(Image.open(event.path).convert("RGB")) for event in ready]

    def picture(self, spec: ImageSpec) -> np.ndarray:
        return self.pictures(self.submit(spec)[1])[0]


class Gate:
    """Holds the UNet's passes until opened, so that requests meet in one batch; counts the rows of every pass."""

    def __init__(self, studio: Studio, closed: bool = True) -> None:
        self.rows: list[int] = []
        self._open = threading.Event()
        if not closed:
            self._open.set()
        unet = studio.engine._model.unet  # type: ignore[union-attr]
        unet.register_forward_pre_hook(self._pass)

    def _pass(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        assert self._open.wait(60)
        self.rows.append(arguments[0].shape[0])

    def open(self) -> None:
        self._open.set()
