"""One attempt of one job on one runner, from the first event to the record of its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from diptych.core.errors import Conflict, DiptychError, JobFailed, Unavailable
from diptych.core.events import ArtifactReady, Event, Failed, Finished, Metrics, Progress, Queued
from diptych.core.jobs import Job, JobState
from diptych.core.painting import shape_of
from diptych.core.protocol import RunRequest
from diptych.schedule.hub import Hub
from diptych.schedule.pool import Held
from diptych.schedule.references import References
from diptych.settings import Settings
from diptych.store.jobs import JobStore

GRACE_SECONDS = 60.0
"""A runner that says nothing this long after a job's own time is over has hung, and is ended."""
SAVE_SECONDS = 1.0
"""Between two writes of a job's progress."""
CANCEL_SECONDS = 0.05
"""Between two tries to cancel a run that its runner does not know yet."""
WRITE_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each new try to write a job's end into a database that is locked or full."""

log = logging.getLogger("diptych.execution")
Result = TypeVar("Result")


class Lost(Exception):
    """The job does not run here any more: its gateway was taken for dead, or somebody else settled it."""


class Execution:
    """`fraction` is the share of the job that is done, `task` the asyncio task that runs it."""

    def __init__(
        self, job: Job, held: Held, store: JobStore, hub: Hub, settings: Settings, references: References,
    ) -> None:
        self.job, self.held = job, held
        self.task: asyncio.Task[None] | None = None
        self.cancelling: asyncio.Task[None] | None = None
        self.fraction = job.progress
        self.metrics: dict[str, float] = {}
        self.retry_reason: str | None = None
        """Code of the fault that the next attempt is for."""
        self.disk_full = False
        """A picture could not be written for want of room; the job is queued again."""
        self.lost = False
        """The job is another gateway's now: nothing of this attempt is written or told any more."""
        self._beside = [0.0, 0]
        self._store, self._hub, self._settings, self._references = store, hub, settings, references
        self._made = {file.index for file in job.artifacts}
        self._saved = 0.0
        self._cancelled = job.cancel_requested
        self._succeeded = False
        self._followed = False

    @property
    def _run_id(self) -> str:
        return f"{self.job.id}-{self.job.attempts}"

    async def cancel(self) -> None:
        """Have the run end at its next step. Tries again until the runner knows the run or the run has ended."""
        self._cancelled = True
        while not self._followed and self.held.runner is not None and self.held.ready:
            if await self.held.runner.client.cancel(self._run_id):
                return
            await asyncio.sleep(CANCEL_SECONDS)

    async def run(self) -> None:
        """Follow the run to its end and write that down. Raises Unavailable when the store cannot be written."""
        last: Event
        try:
            # A cancel between the claim and now found nobody to tell; the store has it.
            wanted = await asyncio.to_thread(self._store.get, self.job.id)
            self._cancelled = self._cancelled or wanted.cancel_requested
            last = Finished(reason="cancelled")
            if not self._cancelled:
                last = await asyncio.wait_for(self._follow(), self.job.timeout_seconds + GRACE_SECONDS)
        except asyncio.TimeoutError:
            if self.held.runner is not None:
                await self.held.runner.stop()
            last = Failed(message="the runner hung and was ended", retryable=True, code="runner_hung")
        except Lost:
            self._lose()
            return
        except DiptychError as error:
            last = Failed(message=error.message, status=error.status, code=error.code)
        except Exception as error:
            log.exception("job %s could not be followed", self.job.id)
            last = Failed(message=f"the job could not be followed: {type(error).__name__}", code="internal")
        finally:
            self._followed = True
        await self._settle(last)

    def speed(self) -> tuple[str, str, float, float] | None:
        """Of a run that was completed: model, size, how many pictures were denoised together on the average, and the
        seconds that one step of one of them took."""
        rate, (pictures, looks) = self.metrics.get("steps_per_second", 0.0), self._beside
        if not self._succeeded or rate <= 0:
            return None
        spec, batch = self.job.spec, self._settings.image_batch
        there = max(pictures / looks if looks else 0.0, spec.count)
        return spec.model, shape_of(spec), min(there, batch), spec.count / (rate * there)

    async def _follow(self) -> Event:
        """Pass the run's events on; the last one, which is not yet told."""
        assert self.held.runner is not None
        files, models = await asyncio.to_thread(self._references.found, self.job.spec, self.held.card)
        folder = (self._settings.artifacts_dir / self.job.id).resolve()
        request = RunRequest(
            id=self._run_id, spec=self.job.spec, files=files, models=models, output_dir=str(folder),
            skip=tuple(sorted(self._made)), timeout_seconds=self.job.timeout_seconds,
            share=f"{self.job.priority.value} {self.job.caller}")
        async with contextlib.aclosing(self.held.runner.client.run(request)) as events:
            async for event in events:
                if isinstance(event, (Finished, Failed)):
                    return event
                await self._take(event)
        return Failed(message="the runner's answer ended early", retryable=True, code="runner_died")

    async def _take(self, event: Event) -> None:
        if isinstance(event, ArtifactReady):
            event = await self._keep(event)
        elif isinstance(event, Metrics):
            self.metrics = event.values
        elif isinstance(event, Progress):
            self.fraction = event.step / max(1, event.steps)
            self._beside = [self._beside[0] + self.held.pictures, self._beside[1] + 1]
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._saved = time.monotonic()
                with contextlib.suppress(Unavailable):  # the next one may be written again
                    await asyncio.to_thread(self._store.progress, self.job.id, self.fraction)
        self._hub.publish(self.job.id, event)

    async def _keep(self, event: ArtifactReady) -> ArtifactReady:
        path = _inside(event.path, self._settings.artifacts_dir)
        try:
            await self._write(lambda: self._store.add_artifact(
                self.job.id, event.index, path, attempt=self.job.attempts, media_type=event.media_type,
                seed=event.seed, width=event.width, height=event.height))
        except Conflict as error:
            raise Lost from error
        self._made.add(event.index)
        return event.model_copy(update={"path": path})

    async def _settle(self, last: Event) -> None:
        """Write the end, then tell it: whoever hears of it finds it in the store."""
        job = self.job
        if isinstance(last, Failed) and self._cancelled:
            last = Finished(reason="cancelled")
        if isinstance(last, Finished) and last.reason == "cancelled" and not self._cancelled:
            # A runner that is told to end cancels what it runs; nobody cancelled the job.
            last = Failed(message="its runner was ended", retryable=True, code="runner_ended")
        if isinstance(last, Finished) and last.reason != "cancelled" and len(self._made) < job.spec.count:
            last = Failed(message=f"the runner made {len(self._made)} of {job.spec.count} pictures")
        if isinstance(last, Failed):
            if last.code == "disk_full":
                # Not the job's fault, and it would meet every other job, too: all wait until there is room.
                self.disk_full = True
                if await self._write(lambda: self._store.requeue(job.id, attempt=job.attempts, uncount=True)):
                    self._hub.publish(job.id, Queued(position=0))
                else:
                    self._lose()
                return
            if last.retryable and job.attempts < job.max_attempts:
                self.retry_reason = last.code or "unknown"
                if await self._write(lambda: self._store.requeue(job.id, attempt=job.attempts)):
                    self._hub.publish(job.id, Queued(position=0))
                else:
                    self._lose()
                return
            if last.retryable:
                last = last.model_copy(update={
                    "message": f"given up after {job.attempts} attempts: {last.message}", "retryable": False})
            done = await self._finish(JobState.FAILED, last.message, last.status)
        elif isinstance(last, Finished) and last.reason == "cancelled":
            done = await self._finish(JobState.CANCELLED)
        else:
            done = self._succeeded = await self._finish(JobState.SUCCEEDED)
        if done:
            self._hub.publish(job.id, last)
        else:
            self._lose()

    def _lose(self) -> None:
        """What became of the job is in the store, for those who watch it."""
        self.lost = True
        log.warning("job %s, attempt %d: it does not run here any more, what it did is dropped", self.job.id,
                    self.job.attempts)

    async def _finish(self, state: JobState, error: str | None = None, status: int | None = None) -> bool:
        return await self._write(lambda: self._store.finish(
            self.job.id, state, attempt=self.job.attempts, error=error, status=status, metrics=self.metrics))

    async def _write(self, change: Callable[[], Result]) -> Result:
        """Do `change` in a thread, some more times where the database cannot be used just now."""
        for pause in WRITE_PAUSES:
            try:
                return await asyncio.to_thread(change)
            except Unavailable as error:
                log.error("job %s: %s", self.job.id, error.message)
                await asyncio.sleep(pause)
        return await asyncio.to_thread(change)


def _inside(path: str, folder: Path) -> str:
    """`path` relative to `folder`; raises JobFailed when it is not inside."""
    try:
        return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise JobFailed("the runner named a file outside of the artifacts folder", code="runner_protocol") from None
