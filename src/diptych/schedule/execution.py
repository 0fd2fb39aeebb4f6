"""One attempt of one job on one runner, from the first event to the record of its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from diptych.core.events import ArtifactReady, Event, Failed, Finished, Metrics, Progress, Queued
from diptych.core.jobs import Job, JobState
from diptych.core.protocol import RunRequest
from diptych.schedule.estimate import speed_shape
from diptych.schedule.hub import Hub
from diptych.schedule.pool import Held
from diptych.settings import Settings
from diptych.store.jobs import JobStore

GRACE_SECONDS = 60.0
"""A runner that says nothing this long after a job's own time is over has hung, and is ended."""
SAVE_SECONDS = 1.0
"""Between two writes of a job's progress."""


class Execution:
    """`fraction` is the share of the job that is done, `task` the asyncio task that runs it."""

    def __init__(self, job: Job, held: Held, store: JobStore, hub: Hub, settings: Settings) -> None:
        self.job, self.held = job, held
        self.task: asyncio.Task[None] | None = None
        self.fraction = job.progress
        self.metrics: dict[str, float] = {}
        self._store, self._hub, self._settings = store, hub, settings
        self._made = {file.index for file in job.artifacts}
        self._saved = 0.0
        self._cancelled = job.cancel_requested
        self._succeeded = False

    @property
    def _run_id(self) -> str:
        return f"{self.job.id}-{self.job.attempts}"

    async def cancel(self) -> None:
        self._cancelled = True
        if self.held.runner is not None:
            await self.held.runner.client.cancel(self._run_id)

    async def run(self) -> None:
        """Follow the run to its end and write that down. Raises Unavailable when the store cannot be written."""
        try:
            last = await asyncio.wait_for(self._follow(), self.job.timeout_seconds + GRACE_SECONDS)
        except asyncio.TimeoutError:
            if self.held.runner is not None:
                await self.held.runner.stop()
            last = Failed(message="the runner hung and was ended", retryable=True, code="runner_hung")
        await self._settle(last)

    def speed(self) -> tuple[tuple[str, str], float] | None:
        """`((model, shape), seconds per step and picture)` of a run that was completed."""
        rate = self.metrics.get("steps_per_second", 0.0)
        if not self._succeeded or rate <= 0:
            return None
        return (self.job.spec.model, speed_shape(self.job.spec)), 1 / rate

    async def _follow(self) -> Event:
        """Pass the run's events on; the last one, which is not yet told."""
        assert self.held.runner is not None
        request = RunRequest(
            id=self._run_id, spec=self.job.spec, output_dir=str(self._settings.artifacts_dir / self.job.id),
            skip=tuple(sorted(self._made)), timeout_seconds=self.job.timeout_seconds)
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
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._saved = time.monotonic()
                await asyncio.to_thread(self._store.progress, self.job.id, self.fraction)
        self._hub.publish(self.job.id, event)

    async def _keep(self, event: ArtifactReady) -> ArtifactReady:
        path = Path(event.path).relative_to(self._settings.artifacts_dir).as_posix()
        await asyncio.to_thread(
            self._store.add_artifact, self.job.id, event.index, path, media_type=event.media_type, seed=event.seed,
            width=event.width, height=event.height)
        self._made.add(event.index)
        return event.model_copy(update={"path": path})

    async def _settle(self, last: Event) -> None:
        """Write the end, then tell it: whoever hears of it finds it in the store."""
        job = self.job
        if isinstance(last, Failed) and self._cancelled:
            last = Finished(reason="cancelled")
        if isinstance(last, Finished) and last.reason != "cancelled" and len(self._made) < job.spec.count:
            last = Failed(message=f"the runner made {len(self._made)} of {job.spec.count} pictures")
        if isinstance(last, Failed):
            if last.retryable and job.attempts < job.max_attempts:
                if await asyncio.to_thread(self._store.requeue, job.id, attempt=job.attempts):
                    self._hub.publish(job.id, Queued(position=0))
                return
            if last.retryable:
                last = last.model_copy(update={
                    "message": f"given up after {job.attempts} attempts: {last.message}", "retryable": False})
            await self._finish(JobState.FAILED, last.message, last.status)
        elif isinstance(last, Finished) and last.reason == "cancelled":
            await self._finish(JobState.CANCELLED)
        else:
            await self._finish(JobState.SUCCEEDED)
            self._succeeded = True
        self._hub.publish(job.id, last)

    async def _finish(self, state: JobState, error: str | None = None, status: int | None = None) -> None:
        await asyncio.to_thread(
            self._store.finish, self.job.id, state, attempt=self.job.attempts, error=error, status=status,
            metrics=self.metrics)
