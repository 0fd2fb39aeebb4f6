"""Pictures on their way from the model to their files, and jobs that only finish a picture: all in one thread beside
the batcher's, so that a step of others never waits for an upscaler."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.core.cards import Card
from diptych.core.errors import Conflict, InvalidRequest
from diptych.core.events import ArtifactReady, Data, Event, Failed, Finished, Metrics, Progress
from diptych.core.infotext import finish_text_chunks
from diptych.core.protocol import RunRequest
from diptych.core.specs import FinishSpec, ImageSpec, InterrogateSpec
from diptych.engines.image.batcher import Batcher, failure
from diptych.engines.image.finish.captions import CaptionRanker, Do
from diptych.engines.image.finish.repaint import Repainter
from diptych.engines.image.finish.stages import Finished as Made
from diptych.engines.image.finish.stages import Finisher, PictureRefused
from diptych.engines.image.finish.worker import FinishWorker
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import ImageModel
from diptych.engines.image.png import write_png

PROGRESS_STEPS = 100
"""What the progress of a job that only finishes a picture is counted in."""
LOOK_SECONDS = 0.2
"""Between two looks at whether an answer is still wanted."""
Emit = Callable[[Event], None]


class GivenUp(Exception):
    """Nobody waits for the picture any more."""


@dataclass(eq=False)
class _Job:
    """A job that only finishes a picture."""

    request: RunRequest
    spec: FinishSpec | InterrogateSpec
    card: Card
    emit: Emit
    do: Do[Any] | None = None
    """Has the model's thread do something."""
    accepted: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    told: int = -1

    def look(self, share: float | None = None) -> None:
        """Raises GivenUp when it was cancelled or takes too long; tells how far it is."""
        seconds = self.request.timeout_seconds
        if self.cancelled or (seconds is not None and time.monotonic() - self.accepted > seconds):
            raise GivenUp
        step = self.told if share is None else int(share * PROGRESS_STEPS)
        if step > self.told:
            self.told = step
            self.emit(Progress(step=step, steps=PROGRESS_STEPS))


class Finishing:
    """See the module. `submit` and `cancel` are the engine's own, for parts that are painted again."""

    def __init__(
        self, device: torch.device, threads: Callable[[], int], submit: Callable[[RunRequest, Emit], None],
        cancel: Callable[[str], bool], card: Card,
    ) -> None:
        self._card = card
        self._finisher = Finisher(device, threads)
        self._worker = FinishWorker(threads)
        self._repainter = Repainter(submit, cancel)
        self._jobs: dict[str, _Job] = {}

    def picture(
        self, pixels: np.ndarray, spec: ImageSpec, index: int, seed: int, request: RunRequest,
        look: Callable[[], None], done: Callable[[Made], None], failed: Callable[[Exception], None],
    ) -> None:
        """Finish a picture that was painted, uint8 (height, width, 3). Returns at once.

        Args:
            look: raises `GivenUp` once nobody waits for it.
            done: called in the finishing thread with what came of it; what it raises goes to `failed`.
            failed: the same with what went wrong, PictureRefused among it.
        """
        def work() -> None:
            try:
                look()
                repaint = self._repainter.of(spec, index, seed, request, look)
                done(self._finisher.finish(pixels, spec, request.files, lambda share: look(), repaint))
            except GivenUp:
                return
            except Exception as error:
                failed(error)

        self._worker.put(work)

    def job(self, request: RunRequest, spec: FinishSpec, emit: Emit) -> None:
        """Take a job. Raises Conflict where one of the same id is here, InvalidRequest without a folder or picture."""
        if request.id in self._jobs:
            raise Conflict(f"run {request.id!r} is already here", param="id")
        if request.output_dir is None:
            raise InvalidRequest("output_dir is missing: a picture needs a folder", param="output_dir")
        if f"input:{spec.image}" not in request.files:
            raise InvalidRequest(f"image is {spec.image!r}, which is not there", param="image")
        job = self._jobs[request.id] = _Job(request, spec, self._card, emit)
        self._worker.put(lambda: self._run(job))

    def interrogate(
        self, request: RunRequest, spec: InterrogateSpec, emit: Emit, model: ImageModel, batcher: Batcher,
    ) -> None:
        """Answer which caption fits a picture. Raises Conflict."""
        if request.id in self._jobs:
            raise Conflict(f"run {request.id!r} is already here", param="id")
        job = self._jobs[request.id] = _Job(request, spec, self._card, emit)
        job.do = partial(_between_steps, batcher, job.look)
        self._worker.put(lambda: self._run(job, model))

    def cancel(self, id: str) -> bool:
        """Have a job end at its next tile; False where it is not here."""
        job = self._jobs.get(id)
        if job is not None:
            job.cancelled = True
        return job is not None

    def close(self) -> None:
        """End all jobs as failed but retryable."""
        for job in list(self._jobs.values()):
            job.cancelled = True
        self._worker.close()
        for job in list(self._jobs.values()):
            self._end(job, Failed(message="the image runner is stopping", code="unavailable", retryable=True))

    def _run(self, job: _Job, model: ImageModel | None = None) -> None:
        try:
            if isinstance(job.spec, InterrogateSpec):
                assert model is not None
                _ask(job, job.spec, model)
            elif not job.request.skip:
                self._make(job, job.spec)
            last: Event = Finished()
        except GivenUp:
            last = Finished(reason="cancelled") if job.cancelled else Failed(
                message=f"the job took longer than {job.request.timeout_seconds:g} seconds", status=504, code="timeout")
        except Exception as error:
            last = failure(error)
        self._end(job, last)

    def _make(self, job: _Job, spec: FinishSpec) -> None:
        request = job.request
        job.look(0.0)
        with Image.open(request.files[f"input:{spec.image}"]) as opened:
            pixels = np.asarray(opened.convert("RGBA" if opened.mode == "RGBA" else "RGB"))
        repaint = self._repainter.of(spec, 0, spec.seed, request, job.look)
        made = self._finisher.finish(pixels, spec, request.files, job.look, repaint)
        assert request.output_dir is not None
        path = Path(request.output_dir) / "000.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, made.pixels, finish_text_chunks(spec, job.card, made.notes))
        job.look(1.0)
        height, width = made.pixels.shape[:2]
        job.emit(ArtifactReady(index=0, path=str(path), seed=spec.seed, width=width, height=height))

    def _end(self, job: _Job, last: Event) -> None:
        self._jobs.pop(job.request.id, None)
        if isinstance(last, Finished):
            made = {"pictures": 1.0} if isinstance(job.spec, FinishSpec) else {}
            job.emit(Metrics(values={"seconds": time.monotonic() - job.accepted, **made}))
        job.emit(last)


def _ask(job: _Job, spec: InterrogateSpec, model: ImageModel) -> None:
    assert job.do is not None
    try:
        with Image.open(io.BytesIO(base64.b64decode(spec.picture))) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidRequest("picture is no PNG file in base64", param="picture") from error
    ranked = CaptionRanker(model, job.do, job.look).rank(pixels, spec.captions, spec.samples, spec.seed)
    found = [{"caption": caption, "error": error} for caption, error in ranked]
    job.emit(Data(value={"captions": found, "tokens": 0}))


def _between_steps(batcher: Batcher, look: Callable[[], None], work: Callable[[], Any]) -> Any:
    """What `work` gives in the batcher's thread. `look` may raise while it is waited for."""
    future: Future[Any] = Future()

    def errand() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    batcher.leave(errand)
    while True:
        try:
            return future.result(LOOK_SECONDS)
        except FutureTimeout:
            look()


def deliver(finishing: Finishing, batcher: Batcher, lane: Lane, pixels: np.ndarray) -> None:
    """Have a picture of the batcher's finished, uint8 (height, width, 3), and written, in the thread for that; its run
    hears of it in the batcher's own."""
    run = lane.run
    assert run.request is not None

    def look() -> None:
        if run.ended or run.cancelled:
            raise GivenUp

    def done(made: Made) -> None:
        path = run.write(lane, made.pixels, made.notes)
        height, width = made.pixels.shape[:2]
        batcher.leave(lambda: None if run.ended else run.tell_picture(lane, path, height, width))

    def failed(error: Exception) -> None:
        if isinstance(error, PictureRefused):
            score = error.score
            batcher.leave(lambda: None if run.ended else run.refuse_picture(lane, score))
        else:
            batcher.leave(lambda: batcher.fail(run, error))

    finishing.picture(pixels, run.spec, lane.index, lane.seed, run.request, look, done, failed)
