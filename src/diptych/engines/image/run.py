"""One image request inside the batcher: its pictures (lanes), its clock and what it has told so far."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from diptych.core.cards import Card
from diptych.core.checks import picture_seed
from diptych.core.errors import JobFailed
from diptych.core.events import ArtifactReady, Event, Progress
from diptych.core.infotext import build_text_chunks
from diptych.core.logs import run_fields
from diptych.core.specs import ImageSpec
from diptych.engines.image.model import Contexts, ImageModel
from diptych.engines.image.png import write_png
from diptych.engines.image.prompting import PicturePrompts, Texts
from diptych.engines.image.samplers import Sampler

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lane:
    """One picture on its way: latents (1, C, h, w), and the sampler that moves them."""

    run: Run
    index: int
    seed: int
    sampler: Sampler
    prompts: PicturePrompts
    contexts: Contexts
    latents: torch.Tensor
    final: torch.Tensor | None = None
    """Where the latest step sees the latents end: what a preview shows."""
    shown: int = 0

    @property
    def group(self) -> tuple[int, ...]:
        """Lanes of equal group fit into one UNet pass."""
        return (*self.latents.shape, self.contexts.tokens)

    def condition(self, model: ImageModel) -> None:
        """Take the contexts of the step that comes next, where the prompt changes with the steps."""
        if self.prompts.changes:
            self.contexts = self.run.contexts_of(self.prompts.at(self.sampler.step), model)

    def advance(self, prediction: torch.Tensor) -> None:
        """One step; raises JobFailed when numbers stop being finite."""
        self.latents, self.final = self.sampler.advance(prediction, self.latents)
        if not bool(torch.isfinite(self.latents).all()):
            raise JobFailed(
                f"picture {self.index}: the latents stopped being finite numbers at step {self.sampler.step} of "
                f"{self.sampler.steps}; try another sampler, fewer steps or a lower guidance", code="not_finite")

    def preview_due(self) -> bool:
        """True once at every step that is a multiple of the spec's `preview_every`; never at the last."""
        every, step = self.run.spec.preview_every, self.sampler.step
        if not every or step == self.shown or step % every or self.sampler.done:
            return False
        self.shown = step
        return True


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
    cancelled: bool = False
    ended: bool = False
    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None
    waiting: deque[int] = field(default_factory=deque)
    lanes: list[Lane] = field(default_factory=list)
    steps_of_done: int = 0
    pictures: int = 0
    unet_seconds: float = 0.0
    decode_seconds: float = 0.0
    _told: int = -1
    _encoded: tuple[Texts, Contexts] | None = None

    def __post_init__(self) -> None:
        self.waiting.extend(index for index in range(self.spec.count) if index not in self.skip)

    @property
    def overdue(self) -> bool:
        return self.timeout_seconds is not None and time.monotonic() - self.accepted > self.timeout_seconds

    @property
    def wanted(self) -> int:
        """Pictures that could take a step now."""
        return len(self.waiting) + sum(not lane.sampler.done for lane in self.lanes)

    @property
    def complete(self) -> bool:
        return not self.waiting and not self.lanes

    @property
    def steps_made(self) -> int:
        """Steps of this attempt."""
        return self.steps_of_done + sum(lane.sampler.step for lane in self.lanes)

    def tell(self, event: Event) -> None:
        """Emit; a listener that fails cancels the run."""
        try:
            self.emit(event)
        except Exception:
            log.exception("nobody takes the events of run %s", self.id, extra=run_fields(self.id))
            self.cancelled = True

    def seed_of(self, index: int) -> int:
        return picture_seed(self.spec, index)

    def contexts_of(self, texts: Texts, model: ImageModel) -> Contexts:
        """Embeddings of these texts; pictures that are painted of the same ones share them."""
        if self._encoded is None or self._encoded[0] != texts:
            self._encoded = (texts, model.encode(texts))
        return self._encoded[1]

    def finish_picture(self, lane: Lane, pixels: np.ndarray) -> None:
        """Write picture and text, tell its path, forget its lane. Raises OSError."""
        path = self.output_dir / f"{lane.index:03d}.png"
        write_png(path, pixels, build_text_chunks(self.spec, lane.index, self.card))
        self.lanes.remove(lane)
        self.steps_of_done += lane.sampler.steps
        self.pictures += 1
        height, width = pixels.shape[:2]
        self.tell(ArtifactReady(index=lane.index, path=str(path), seed=lane.seed, width=width, height=height))

    def tell_progress(self) -> None:
        """A Progress event when a step was done since the last one. Skipped pictures count as done."""
        made = self.steps_made
        if made == self._told:
            return
        self._told = made
        steps = self.spec.steps * self.spec.count
        step = self.spec.steps * len(self.skip) + made
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
