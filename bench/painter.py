"""Our image engine in this process, and pictures as the gateway stores them, for the comparisons with diffusers."""

from __future__ import annotations

import hashlib
import itertools
import queue
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.cards import Card
from diptych.core.events import ArtifactReady, Event, Failed, Finished
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.engine import ImageEngine


class Painter:
    """An engine that holds the model in `folder`; its pictures lie below `out`."""

    def __init__(self, folder: Path, threads: int, out: Path) -> None:
        self._engine, self._out, self._count = ImageEngine(), out, itertools.count()
        card = Card(id=folder.name, panel="image", family="sd1", format="diffusers", path=str(folder), bytes=1,
                    fingerprint="0")
        self._engine.load(LoadRequest(card=card, threads=threads))

    def begin(self, spec: ImageSpec, files: dict[str, str] | None = None) -> queue.Queue[Event]:
        """Submit; the events come out of the queue."""
        told: queue.Queue[Event] = queue.Queue()
        id = f"run-{next(self._count)}"
        self._engine.submit(RunRequest(id=id, spec=spec, output_dir=str(self._out / id), files=files or {}), told.put)
        return told

    def paint(self, spec: ImageSpec, files: dict[str, str] | None = None) -> Image.Image:
        """The first picture of a spec. Raises RuntimeError."""
        return finished(self.begin(spec, files))


def finished(told: queue.Queue[Event]) -> Image.Image:
    """Waits for the end of a run; its first picture. Raises RuntimeError."""
    path = None
    while not isinstance(event := told.get(), (Finished, Failed)):
        path = event.path if isinstance(event, ArtifactReady) and path is None else path
    if path is None:
        raise RuntimeError(event)
    return Image.open(path)


def stored(picture: Image.Image, folder: Path) -> tuple[str, dict[str, str]]:
    """The id of a picture that was uploaded, and what a run's `files` say of it."""
    path = folder / f"{len(list(folder.iterdir()))}.png"
    picture.save(path)
    id = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return id, {f"input:{id}": str(path)}


def most_apart(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures, of 255."""
    pair: list[Any] = [np.asarray(picture.convert("RGB"), dtype=int) for picture in (one, other)]
    return int(abs(pair[0] - pair[1]).max())
