"""The engine around a whole pipeline of diffusers: one picture at a time, with progress, previews and cancelling
between its steps."""

from __future__ import annotations

import secrets
import time
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from diptych.core.cards import Card
from diptych.core.checks import check, check_size
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Event, Failed, Finished, Preview
from diptych.core.image_options import MAX_SEED
from diptych.core.painting import steps_of
from diptych.core.pipelines import check_pipeline
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.engines.base import Emit
from diptych.engines.image.accepting import device_of, dtype_of, made_folder, picture_spec
from diptych.engines.image.batcher import failure
from diptych.engines.image.finish.stages import Finisher, PictureRefused
from diptych.engines.image.passes import PassMemory
from diptych.engines.image.pipeline_model import Canvas, PipelineModel, load_pipeline
from diptych.engines.image.pipeline_queue import PictureQueue
from diptych.engines.image.png import base64_png
from diptych.engines.image.preview import LatentPreview
from diptych.engines.image.run import Run
from diptych.engines.image.starting import canvas_of
from diptych.prompts.plain import plain_prompts


class Ended(Exception):
    """A run has to end between two steps."""

    def __init__(self, event: Event) -> None:
        super().__init__(type(event).__name__)
        self.event = event


class Way:
    """One picture on its way, as far as a run counts it."""

    def __init__(self, run: Run, index: int) -> None:
        self.run = run
        self.index = index
        self.seed = run.seed_of(index)
        self.steps_made = 0
        self.done = False


class PipelineEngine:
    """See `Engine` for the contract. Options of `load`: `device` and `dtype`, as of `ImageEngine`."""

    name = "image"

    def __init__(self) -> None:
        self._queue: PictureQueue | None = None
        self._model: PipelineModel | None = None

    def load(self, request: LoadRequest) -> None:
        torch.set_num_threads(request.threads)
        model = load_pipeline(
            request.card.path, device_of(request.options), dtype_of(request.options))
        self._card: Card = request.card.model_copy(
            update={"size": request.card.size or model.size, "multiple": request.card.multiple or model.multiple})
        self._model = model
        self._memory = PassMemory(model.device)
        self._finisher = Finisher(model.device, lambda: self.threads or 1)
        self._preview = LatentPreview(cast(Any, model))  # it needs the decoder and its sizes
        self._queue = PictureQueue(self._paint, request.threads)

    @property
    def threads(self) -> int | None:
        return None if self._queue is None else self._queue.threads

    def set_threads(self, threads: int) -> None:
        if self._queue is not None:
            self._queue.threads = threads

    def passes(self) -> dict[str, int]:
        return {} if self._model is None else self._memory.found

    def submit(self, request: RunRequest, emit: Emit) -> None:
        if self._queue is None or self._model is None:
            raise Unavailable("this runner holds no model")
        spec = picture_spec(request)
        check(spec, self._card)
        check_pipeline(spec, self._card)
        if spec.preview_every and not self._model.previews:
            raise InvalidRequest(f"preview_every is {spec.preview_every}, but the latents of {self._model.name} cannot "
                                 "be shown on their way; leave it at 0", param="preview_every")
        for index in range(max(1, len(spec.resolved))):
            plain_prompts(spec, index)
        canvas = canvas_of(spec, request.files, cast(Any, self._model))
        width, height = spec.width or self._card.size, spec.height or self._card.size
        if canvas is not None:
            height, width = canvas.pixels.shape[:2]
        assert width is not None and height is not None
        check_size(width, height, self._model.multiple)
        seed = secrets.randbelow(MAX_SEED) if spec.seed < 0 else spec.seed
        spec = spec.model_copy(update={"width": width, "height": height, "seed": seed})
        self._queue.add(Run(
            request.id, spec, self._card, made_folder(request), frozenset(request.skip), emit, request.timeout_seconds,
            request.share, canvas, request=request))

    def cancel(self, id: str) -> bool:
        return self._queue is not None and self._queue.cancel(id)

    def close(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = self._model = None

    def _paint(self, run: Run) -> Event | None:
        """The run's next picture; returns how the run ends, or None while there are more. Called by one thread."""
        assert self._model is not None
        model, spec = self._model, run.spec
        if run.started is None:
            run.started = time.monotonic()
        way = Way(run, run.waiting.popleft())
        # A run counts lanes; this is all that it asks of one.
        lane = cast(Any, way)
        run.lanes.append(lane)
        canvas = None
        if run.canvas is not None:
            mask = run.canvas.mask
            canvas = Canvas(Image.fromarray(run.canvas.pixels),
                            None if mask is None else Image.fromarray((mask * 255).round().astype("uint8")),
                            spec.strength)
        began = time.monotonic()
        try:
            self._told(way, 0, None)
            with torch.inference_mode(), self._memory.measured(f"{spec.width}x{spec.height}x1"):
                pixels = model.paint(spec, plain_prompts(spec, way.index), way.seed,
                                     lambda step, latents: self._told(way, step, latents), canvas)
            run.unet_seconds += time.monotonic() - began
            way.steps_made = steps_of(spec)
            self._finish(run, lane, pixels)
            run.tell_progress()
        except Ended as end:
            return end.event
        except PictureRefused as error:
            run.refuse_picture(lane, error.score)
        except Exception as error:
            return failure(error)
        return run.end() if run.complete else None

    def _finish(self, run: Run, lane: Any, pixels: np.ndarray) -> None:
        """Write and tell a picture, finished where that is asked for. Raises PictureRefused, OSError."""
        if not run.finishes or run.request is None:
            run.finish_picture(lane, pixels)
            return
        made = self._finisher.finish(
            run.painted(pixels), run.spec, run.request.files, lambda share: self._told(lane, lane.steps_made, None))
        run.tell_picture(lane, run.write(lane, made.pixels, made.notes), *made.pixels.shape[:2])

    def _told(self, way: Way, step: int, latents: torch.Tensor | None) -> None:
        """After a step: progress and a preview; raises Ended when the run was cancelled or took too long."""
        run, spec = way.run, way.run.spec
        if run.cancelled:
            raise Ended(Finished(reason="cancelled"))
        if run.overdue:
            raise Ended(Failed(message=f"the job took longer than {run.timeout_seconds:g} seconds", status=504,
                               code="timeout"))
        way.steps_made = step
        run.tell_progress()
        due = spec.preview_every and step % spec.preview_every == 0 and 0 < step < steps_of(spec)
        if latents is not None and due and self._model is not None:
            assert spec.width is not None and spec.height is not None
            small = self._preview.pixels(self._model.latents_of(latents, spec))
            run.tell(Preview(index=way.index, step=step, png=base64_png(small, (spec.width, spec.height))))
