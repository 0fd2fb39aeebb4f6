"""Step-level batching: one thread denoises the pictures of all requests together.

Every picture is a lane with a sampler of its own. At each tick a fair share of the lanes takes one step; lanes of one
latent shape and context length go through the UNet in one pass, conditional and unconditional rows together. So
requests join and leave between steps, and none of them changes another's picture.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch

from diptych.core.errors import Conflict, DiptychError, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics, Preview
from diptych.core.logs import run_fields
from diptych.engines.image.finish.worker import Errands
from diptych.engines.image.guiding import Predictor, size_of
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import ImageModel
from diptych.engines.image.passes import PassMemory
from diptych.engines.image.png import base64_png
from diptych.engines.image.preview import LatentPreview
from diptych.engines.image.run import Run
from diptych.engines.image.samplers import SamplerFactory
from diptych.engines.image.starting import Starter
from diptych.engines.image.tiling import Tiling

log = logging.getLogger(__name__)


def fair_shares(wanted: Sequence[int], cap: int, owners: Sequence[str] | None = None, first: int = 0) -> list[int]:
    """How many lanes each run may step, at most `cap` together: one each in order of arrival, round after round.

    Args:
        wanted: lanes that each run could step.
        owners: who each run counts for. They are given one lane each, round after round, and divide their lanes
            between their own runs in the same way: many runs are worth no more than one.
        first: the owner whose turn it is, by number; where they are more than `cap`, it has to be another each time.
    """
    owners = owners or [""] * len(wanted)
    names = list(dict.fromkeys(owner for owner, want in zip(owners, wanted, strict=True) if want))
    start = first % max(1, len(names))
    turns = {owner: _turns([position for position, one in enumerate(owners) if one == owner], wanted)
             for owner in names[start:] + names[:start]}
    shares = [0] * len(wanted)
    left = min(cap, sum(wanted))
    while left:
        for turn in turns.values():
            position = next(turn, None) if left else None
            if position is not None:
                shares[position] += 1
                left -= 1
    return shares


def _turns(positions: Sequence[int], wanted: Sequence[int]) -> Iterator[int]:
    """Whose lane is next among these runs."""
    for served in range(max((wanted[position] for position in positions), default=0)):
        yield from (position for position in positions if wanted[position] > served)


Finish = Callable[[Lane, np.ndarray], None]
"""Has a picture finished elsewhere, uint8 (height, width, 3). What comes of it is left for the batcher (`leave`)."""
LOOK_SECONDS = 0.1
"""Between two looks at runs that wait for nothing but that."""


class Batcher:
    """Runs requests on one model until closed.

    Args:
        cap: most pictures in one step.
        threads: of torch, for this thread's computations.
        pixels: most pixels of all pictures in one pass, which holds one picture at least; None: any.
    """

    def __init__(
        self, model: ImageModel, samplers: SamplerFactory, cap: int, threads: int, pixels: int | None = None,
        finish: Finish | None = None,
    ) -> None:
        self._model = model
        self._cap = cap
        self._threads = threads
        self._pixels = pixels
        self._memory = PassMemory(model.device)
        self._predict = Predictor(self._memory)
        self._starter = Starter(model, samplers)
        self._tilings: weakref.WeakKeyDictionary[ImageModel, Tiling] = weakref.WeakKeyDictionary()
        self._preview = LatentPreview(model)
        self._runs: dict[str, Run] = {}
        self._denoised: deque[Lane] = deque()
        self._turn = 0
        self._wake = threading.Condition()
        self._finish = finish
        self._errands = Errands(self._notify)
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="image-batcher", daemon=True)
        self._thread.start()

    @property
    def threads(self) -> int:
        return self._threads

    def set_threads(self, threads: int) -> None:
        """Of torch, from the next step on."""
        self._threads = threads

    @property
    def passes(self) -> dict[str, int]:
        """See `Measuring`."""
        return self._memory.found

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
            return run is not None

    def close(self) -> None:
        """End all runs as failed but retryable, and the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def leave(self, errand: Callable[[], None]) -> None:
        """Have the batcher's thread call `errand` between two steps; it must not raise. Any thread."""
        self._errands.leave(errand)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _main(self) -> None:
        threads = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or bool(self._runs) or bool(self._errands))
                runs = list(self._runs.values())
                if self._closing:
                    break
            if threads != self._threads:
                threads = self._threads
                torch.set_num_threads(threads)
            with torch.inference_mode():
                self._tick(runs)
        for run in runs:
            self._end(run, Failed(message="the image runner is stopping", code="unavailable", retryable=True))

    def _tick(self, runs: list[Run]) -> None:
        """One step of a fair share of all lanes, then as many decodes as take no longer than the step did."""
        self._errands.run()
        for run in runs:
            self._sweep(run)
        runs = [run for run in runs if not run.ended]
        began = time.monotonic()
        stepped = self._select(runs)
        groups: dict[tuple[Hashable, ...], list[Lane]] = {}
        for lane in stepped:
            groups.setdefault(lane.group, []).append(lane)
        for lanes in groups.values():
            for together in self._portions(lanes):
                self._step(together)
        self._denoised.extend(lane for lane in stepped if lane.done and not lane.run.ended)
        self._tell(runs)
        self._decode(deadline=2 * time.monotonic() - began)
        if runs and not stepped and not self._denoised:
            with self._wake:  # all that is left is being finished elsewhere
                self._wake.wait_for(lambda: self._closing or bool(self._errands), LOOK_SECONDS)

    def _sweep(self, run: Run) -> None:
        """End a run that was cancelled, is overdue or has nothing left to do."""
        if run.cancelled:
            self._end(run, Finished(reason="cancelled"))
        elif run.overdue:
            self._end(run, Failed(
                message=f"the job took longer than {run.timeout_seconds:g} seconds", status=504, code="timeout"))
        elif run.complete:
            self._end(run, run.end())

    def _select(self, runs: list[Run]) -> list[Lane]:
        """Lanes to step now. A run's earlier pictures go first, so that they are finished first."""
        selected: list[Lane] = []
        shares = fair_shares([run.wanted for run in runs], self._cap, [run.share for run in runs], self._turn)
        if len({run.share for run in runs}) > self._cap:
            self._turn += self._cap
        for run, share in zip(runs, shares, strict=True):
            try:
                if share and run.started is None:
                    run.started = time.monotonic()
                while share > sum(not lane.done for lane in run.lanes):
                    self._starter.lane(run)
                lanes = [lane for lane in run.lanes if not lane.done][:share]
                for lane in lanes:
                    self._starter.prepare(lane)
            except Exception as error:
                self._fail(run, error)
            else:
                selected += lanes
        return selected

    def _step(self, lanes: list[Lane]) -> None:
        """One step of lanes of one group. When the pass fails, each half is tried alone, so only the guilty lane's run
        fails; after a lack of memory fewer go together from then on."""
        lanes = [lane for lane in lanes if not lane.run.ended]
        if not lanes:
            return
        try:
            self._tiling(lanes[0].model).set(lanes[0].stage.spec.tiling)
            predictions = self._predict(lanes)
        except Exception as error:
            if len(lanes) == 1:
                self._fail(lanes[0].run, error)
                return
            half = len(lanes) // 2
            if out_of_memory(error):
                self._cap = min(self._cap, half)
                log.warning("out of memory with %d pictures together; now at most %d", len(lanes), self._cap)
            self._step(lanes[:half])
            self._step(lanes[half:])
            return
        for lane, prediction in zip(lanes, predictions, strict=True):
            if lane.run.ended:
                continue
            try:
                lane.advance(prediction)
                if lane.preview_due():
                    self._show(lane)
            except Exception as error:
                self._fail(lane.run, error)

    def _portions(self, lanes: list[Lane]) -> list[list[Lane]]:
        """Lanes of one group, as many together as memory was promised for."""
        if self._pixels is None:
            return [lanes]
        width, height = size_of(lanes[0])
        most = max(1, self._pixels // (width * height))
        return [lanes[start:start + most] for start in range(0, len(lanes), most)]

    def _tiling(self, model: ImageModel) -> Tiling:
        if model not in self._tilings:
            self._tilings[model] = Tiling(*model.modules)
        return self._tilings[model]

    def _show(self, lane: Lane) -> None:
        assert lane.final is not None
        png = base64_png(self._preview.pixels(lane.final), size_of(lane))
        lane.run.tell(Preview(index=lane.index, step=lane.steps_made, png=png))

    def _decode(self, deadline: float) -> None:
        """Decode and write denoised pictures: at least one, then until the deadline, all when nothing else waits."""
        first = True
        while self._denoised and (first or time.monotonic() < deadline or not self._steps_wait()):
            first = False
            lane = self._denoised.popleft()
            if lane.run.ended or lane.run.cancelled:
                continue
            began = time.monotonic()
            try:
                width, height = size_of(lane)
                coder = lane.run.coder(self._model)
                self._tiling(coder).set(lane.stage.spec.tiling)
                with self._memory.measured(f"{width}x{height} decode"):
                    pixels = coder.decode(lane.latents)
                lane.run.decode_seconds += time.monotonic() - began
                self._deliver(lane, pixels)
            except Exception as error:
                self._fail(lane.run, error)
                continue
            if lane.run.complete:
                self._end(lane.run, lane.run.end())

    def _deliver(self, lane: Lane, pixels: np.ndarray) -> None:
        """Write a decoded picture, or have it finished first, which goes on beside the steps."""
        if lane.run.finishes and self._finish is not None:
            self._finish(lane, lane.run.painted(pixels))
        else:
            lane.run.finish_picture(lane, pixels)

    def _steps_wait(self) -> bool:
        with self._wake:
            return self._closing or any(run.wanted for run in self._runs.values())

    def _tell(self, runs: list[Run]) -> None:
        for run in runs:
            if not run.ended and run.started is not None:
                run.tell_progress()

    def _end(self, run: Run, last: Event) -> None:
        """Forget a run and say how it ended."""
        with self._wake:
            self._runs.pop(run.id, None)
        run.ended = True
        if isinstance(last, Finished):
            run.tell(Metrics(values=run.metrics()))
        run.tell(last)
        run.lanes.clear()
        run.waiting.clear()

    def fail(self, run: Run, error: Exception) -> None:
        """End a run that is here with an error; the batcher's thread only."""
        if not run.ended:
            self._fail(run, error)

    def _fail(self, run: Run, error: Exception) -> None:
        if not isinstance(error, DiptychError):
            log.error("run %s failed", run.id, exc_info=error, extra=run_fields(run.id))
        self._end(run, failure(error))


def out_of_memory(error: Exception) -> bool:
    """True for Python's and torch's ways to say so, on any device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def failure(error: Exception) -> Failed:
    """What a client is told about an error: words, no traceback and no path."""
    if isinstance(error, DiptychError):
        return Failed(message=error.message, status=error.status, param=error.param, code=error.code)
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Failed(message=f"the picture could not be written: {error.strerror}",
                      code="disk_full" if full else "write_failed")
    if out_of_memory(error):
        return Failed(message="out of memory; fewer or smaller pictures need less", code="out_of_memory")
    reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
    return Failed(message=f"the picture could not be made: {reason}", code="engine_error")
