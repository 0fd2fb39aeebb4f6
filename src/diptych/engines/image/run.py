"""One image request inside the batcher: its pictures (lanes), its clock and what it has told so far."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from diptych.core.cards import Card
from diptych.core.checks import picture_seed
from diptych.core.events import ArtifactReady, Event, Finished, Progress
from diptych.core.infotext import build_text_chunks
from diptych.core.logs import run_fields
from diptych.core.painting import steps_of
from diptych.core.protocol import RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.adapters.extras import Extras
from diptych.engines.image.canvas import Canvas
from diptych.engines.image.enlarging import Upscale
from diptych.engines.image.finish.stages import told_refused
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import Contexts, ImageModel
from diptych.engines.image.png import write_png
from diptych.engines.image.prompting import Texts

if TYPE_CHECKING:
    from diptych.engines.image.control.units import Unit

log = logging.getLogger(__name__)
Made = TypeVar("Made")


@dataclass(eq=False)
class Run:
    """A request's state. Touched by the batcher's thread only, but for `cancelled`."""

    id: str
    spec: ImageSpec
    """Complete: width, height and seed are given."""
    card: Card
    output_dir: Path
    skip: frozenset[int]
    emit: Callable[[Event], None]
    timeout_seconds: float | None = None
    share: str = ""
    canvas: Canvas | None = None
    upscale: Upscale | None = None
    """What `hires.upscaler` names, where it is an upscaler of the library."""
    refine: ImageModel | None = None
    extras: Extras | None = None
    """Adapters, embeddings and another VAE."""
    units: tuple[Unit, ...] = ()
    """Of control."""
    request: RunRequest | None = None
    """What it was made of."""
    cancelled: bool = False
    ended: bool = False
    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None
    waiting: deque[int] = field(default_factory=deque)
    lanes: list[Lane] = field(default_factory=list)
    steps_of_done: int = 0
    pictures: int = 0
    refused: dict[int, float] = field(default_factory=dict)
    """Pictures that the check for nudity refused, and their scores."""
    unet_seconds: float = 0.0
    decode_seconds: float = 0.0
    _told: int = -1
    _encoded: tuple[Texts, ImageModel, Contexts] | None = None
    _steps_each: int = 0
    _kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps_each = steps_of(self.spec)
        self.waiting.extend(index for index in range(self.spec.count) if index not in self.skip)

    @property
    def recorded(self) -> ImageSpec:
        """The spec for the record: a size that follows from the picture it starts from is left to follow again."""
        if self.canvas is None or self.request is None or not isinstance(self.request.spec, ImageSpec):
            return self.spec
        asked = self.request.spec
        return self.spec.model_copy(update={"width": asked.width, "height": asked.height})

    @property
    def overdue(self) -> bool:
        return self.timeout_seconds is not None and time.monotonic() - self.accepted > self.timeout_seconds

    @property
    def wanted(self) -> int:
        """Pictures that could take a step now."""
        return len(self.waiting) + sum(not lane.done for lane in self.lanes)

    @property
    def complete(self) -> bool:
        return not self.waiting and not self.lanes

    @property
    def steps_made(self) -> int:
        """Steps of this attempt."""
        return self.steps_of_done + sum(lane.steps_made for lane in self.lanes)

    def tell(self, event: Event) -> None:
        """Emit; a listener that fails cancels the run."""
        try:
            self.emit(event)
        except Exception:
            log.exception("nobody takes the events of run %s", self.id, extra=run_fields(self.id))
            self.cancelled = True

    def seed_of(self, index: int) -> int:
        return picture_seed(self.spec, index)

    def coder(self, model: ImageModel) -> ImageModel:
        """What pictures are decoded and encoded with: the model, or one with another VAE."""
        coder: ImageModel | None = None if self.extras is None else self.extras.coder
        return coder or model

    def contexts_of(self, texts: Texts, model: ImageModel) -> Contexts:
        """Embeddings of these texts; pictures that are painted of the same ones share them. Adapters and embeddings are
        not the refiner's."""
        if model is self.refine:
            texts = texts.without_extras
        if self._encoded is None or self._encoded[0] != texts or self._encoded[1] is not model:
            self._encoded = (texts, model, model.encode(texts))
        return self._encoded[2]

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` made at the first call with this name: the same for all pictures of the run."""
        if name not in self._kept:
            self._kept[name] = make()
        made: Made = self._kept[name]
        return made

    @property
    def finishes(self) -> bool:
        """Whether something is done with its pictures once they are painted."""
        return bool(self.spec.finish) or self.spec.nsfw != "off"

    def painted(self, pixels: np.ndarray) -> np.ndarray:
        """What was decoded, put back into the picture that it started from."""
        return pixels if self.canvas is None else self.canvas.finish(pixels)

    def write(self, lane: Lane, pixels: np.ndarray, notes: dict[str, Any] | None = None) -> Path:
        """Write picture, uint8 (height, width, 3 or 4), and text; any thread. Raises OSError."""
        path = self.output_dir / f"{lane.index:03d}.png"
        write_png(path, pixels, build_text_chunks(self.recorded, lane.index, self.card, notes))
        return path

    def finish_picture(self, lane: Lane, pixels: np.ndarray) -> None:
        """Put what was decoded back into the picture that it started from, write it and tell it. Raises OSError."""
        pixels = self.painted(pixels)
        self.tell_picture(lane, self.write(lane, pixels), *pixels.shape[:2])

    def tell_picture(self, lane: Lane, path: Path, height: int, width: int) -> None:
        """Tell the path of a picture that is written, forget its lane."""
        self._forget(lane)
        self.pictures += 1
        self.tell(ArtifactReady(index=lane.index, path=str(path), seed=lane.seed, width=width, height=height))

    def refuse_picture(self, lane: Lane, score: float) -> None:
        """Forget the lane of a picture that the check for nudity refused; the job's end tells it."""
        self._forget(lane)
        self.refused[lane.index] = score

    def end(self) -> Event:
        """The last event, where nothing is left to do."""
        return told_refused(self.refused, self.spec.count) if self.refused else Finished()

    def _forget(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        self.steps_of_done += lane.steps_made

    def tell_progress(self) -> None:
        """A Progress event when a step was done since the last one. Skipped pictures count as done."""
        made = self.steps_made
        if made == self._told:
            return
        self._told = made
        steps = self._steps_each * self.spec.count
        step = self._steps_each * len(self.skip) + made
        eta = None
        if self.started is not None and made:
            eta = (time.monotonic() - self.started) / made * (steps - step)
        self.tell(Progress(step=step, steps=steps, eta_seconds=eta))

    def metrics(self) -> dict[str, float]:
        """Seconds since the request was accepted, and the rates of its work."""
        now = time.monotonic()
        working = now - (self.started if self.started is not None else now)
        return {
            "seconds": now - self.accepted,
            "steps_per_second": self.steps_made / working if working > 0 else 0.0,
            "pictures": float(self.pictures),
            "unet_seconds": self.unet_seconds,
            "decode_seconds": self.decode_seconds,
        }
