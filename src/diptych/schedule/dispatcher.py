"""From the queue to the runners and back: claim → plan → run → update. Chat goes the same way without a record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from diptych.core.cards import Card
from diptych.core.checks import check, picture_size
from diptych.core.errors import Conflict, DiptychError, InvalidRequest, Unavailable
from diptych.core.events import ArtifactReady, Event, Failed, Finished, Queued, Started, TokenDelta
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.logs import bound
from diptych.core.protocol import RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, ImageSpec
from diptych.library import Library
from diptych.runners.local import Launcher
from diptych.schedule.estimate import seconds_needed
from diptych.schedule.execution import Execution
from diptych.schedule.fairness import order_heads, serving_order
from diptych.schedule.hub import Hub
from diptych.schedule.pool import Held, RunnerInfo, RunnerPool
from diptych.settings import Settings
from diptych.store.jobs import JobStore, new_id
from diptych.store.lines import Waiting
from diptych.store.measurements import Measurements

LOOK_SECONDS = 5.0
"""The queue is looked at this often even when nothing seems to have changed."""
JOBS_PER_RUNNER = 64
RETRY_SECONDS = 1.0
STOP_SECONDS = 5.0
"""How long a claim that is under way may take to be finished at a stop."""

log = logging.getLogger("diptych.dispatcher")


class Dispatcher:
    """Runs the queue from `start` until `stop`. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, store: JobStore, library: Library, launcher: Launcher, hub: Hub,
    ) -> None:
        self._settings, self._store, self._library, self._hub = settings, store, library, hub
        self._measurements = Measurements(store.database)
        self._wake = asyncio.Event()
        self._launcher = launcher
        self._pool = RunnerPool(settings, launcher, self._measurements, self._wake.set)
        self._running: dict[str, Execution] = {}
        self._served: dict[str, int] = {}
        self._turn = 0
        self._speeds: dict[tuple[str, str], float] = {}
        self._wanted: dict[str, float] = {}
        self._began = time.monotonic()
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._draining = False
        self.beat = time.monotonic()
        """When the loop last came round, as `time.monotonic()`."""

    async def start(self) -> None:
        """Take up the queue where it was left: what ran when the last gateway died is queued again."""
        again, ended = await asyncio.to_thread(self._store.recover)
        if again or ended:
            log.warning("after an unclean end: %d jobs queued again, %d ended", again, ended)
        self._speeds = await asyncio.to_thread(self._measurements.all, "step_seconds")
        await self._pool.start()
        self._launcher.warm()
        self._main = asyncio.create_task(self._loop())
        self._wake.set()

    async def stop(self) -> None:
        """Put running jobs back into the queue, without counting the attempt, and end all runners."""
        self._stopping = True
        self._wake.set()
        if self._main is not None:
            # Not cancelled at once: a claim that is under way in a thread would be made, and nobody would know.
            await asyncio.wait([self._main], timeout=STOP_SECONDS)
            self._main.cancel()
        tasks = [execution.task for execution in self._running.values() if execution.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._hub.close()
        await self._pool.stop()

    def drain(self) -> None:
        """Begin no more jobs; those that run go on."""
        self._draining = True

    def executing(self, id: str) -> Execution | None:
        """The attempt that runs here now of this job."""
        return self._running.get(id)

    @property
    def executions(self) -> int:
        """How many jobs run here now."""
        return len(self._running)

    async def submit(
        self, spec: ImageSpec, *, caller: str, priority: Priority = Priority.INTERACTIVE,
    ) -> Job:
        """Accept an image job; its seed and size are filled in, so that it stays the same job whenever it runs.

        Raises:
            NotFound: no such model. InvalidRequest: the model cannot do what the spec asks for, or can never fit.
            TooLarge: the queue is full.
        """
        card = await asyncio.to_thread(self._library.get, spec.model)
        check(spec, card)
        self._pool.check_fits(card)
        width, height = picture_size(spec, card)
        seed = secrets.randbelow(2**32) if spec.seed < 0 else spec.seed
        spec = spec.model_copy(update={"width": width, "height": height, "seed": seed, "model": card.id})
        id = new_id()
        self._wanted[id] = time.monotonic()
        job = await asyncio.to_thread(
            self._store.submit, spec, id=id, caller=caller, priority=priority, limit=self._settings.max_queued_jobs,
            timeout_seconds=self._settings.job_timeout_seconds, max_attempts=self._settings.job_max_attempts)
        self._wake.set()
        return job

    async def cancel(self, id: str) -> Job:
        """Cancel a queued job at once, a running one at its next step. Finished pictures stay.

        Raises:
            NotFound: no such job. Conflict: it has already ended.
        """
        before = await asyncio.to_thread(self._store.get, id)
        if before.state.final:
            raise Conflict(f"job {id!r} has already ended: {before.state.value}", param="id")
        job = await asyncio.to_thread(self._store.request_cancel, id)
        if job.state is JobState.CANCELLED:
            self._hub.publish(id, Finished(reason="cancelled"))
        elif (execution := self._running.get(id)) is not None:
            execution.cancelling = asyncio.create_task(execution.cancel())
        self._wake.set()
        return job

    async def events(self, id: str) -> AsyncGenerator[Event, None]:
        """A job's events: what a newcomer needs of those so far, then the others. For a job that has ended: its
        pictures and the last event. Raises NotFound."""
        job = await asyncio.to_thread(self._store.get, id)
        if not job.state.final:
            async with contextlib.aclosing(self._hub.subscribe(id)) as stream:
                first = asyncio.ensure_future(anext(stream, None))
                try:
                    await asyncio.sleep(0)  # now it is subscribed, and nothing is missed
                    job = await asyncio.to_thread(self._store.get, id)
                    if not job.state.final:
                        self._wake.set()  # tells a queued job its position
                        if (event := await first) is not None:
                            yield event
                        async for event in stream:
                            yield event
                        return
                finally:
                    first.cancel()  # it must have ended before the stream can be closed
                    await asyncio.gather(first, return_exceptions=True)
        for event in replay(job):
            yield event

    async def stream(
        self, spec: ChatSpec | CompletionSpec, *, caller: str = "local", stop: asyncio.Event | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer now. Closing the generator cancels the run and frees its slot. A runner that dies before the first
        token is replaced once, unseen.

        Args:
            stop: once it is set, the run is cancelled at its next event, and still tells its `Metrics` and end.

        Raises:
            NotFound, InvalidRequest, Unavailable: the model is not there, is no text model, or could not be loaded.
        """
        card = await asyncio.to_thread(self._library.get, spec.model)
        if card.panel != "text":
            raise InvalidRequest(f"model {card.id!r} makes pictures, not text", param="model")
        begun = False
        for last in (False, True):
            held = await self._pool.acquire(card, caller, self._settings.text_slots)
            try:
                assert held.runner is not None
                request = RunRequest(
                    id=secrets.token_hex(16), spec=spec, timeout_seconds=self._settings.job_timeout_seconds)
                async with contextlib.aclosing(held.runner.client.run(request)) as events:
                    async for event in events:
                        if isinstance(event, Failed) and event.retryable and not begun and not last:
                            break
                        begun = begun or isinstance(event, TokenDelta)
                        yield event
                        if stop is not None and stop.is_set():
                            await held.runner.client.cancel(request.id)
                            stop = None
                    else:
                        return
            finally:
                self._pool.release(held, caller)

    async def load(self, model: str) -> RunnerInfo:
        """Have a model ready. Raises NotFound, InvalidRequest, Unavailable."""
        return await self._pool.load(await asyncio.to_thread(self._library.get, model))

    async def unload(self, model: str) -> None:
        """End a model's runner. Raises NotFound for an unknown model, Conflict when it is not loaded."""
        card = await asyncio.to_thread(self._library.get, model)
        if not await self._pool.unload(card.id):
            raise Conflict(f"model {card.id!r} is not loaded", param="model")

    def runners(self) -> list[RunnerInfo]:
        return self._pool.infos()

    @property
    def memory_budget(self) -> int:
        """Bytes that all models together may use."""
        return self._pool.budget

    async def queue(self) -> list[tuple[Job, int, float | None]]:
        """All queued jobs in serving order with position (0: next) and the seconds until each will be done, where all
        the speeds that this depends on were measured."""
        order = serving_order(await asyncio.to_thread(self._store.queued), self._served)
        left: float | None = 0.0
        for execution in self._running.values():
            needed = seconds_needed(execution.job.spec, self._speeds, execution.fraction)
            left = None if left is None or needed is None else max(left, needed)
        result = []
        for position, job in enumerate(order):
            needed = seconds_needed(job.spec, self._speeds)
            left = None if left is None or needed is None else left + needed
            result.append((job, position, left))
        return result

    async def _loop(self) -> None:
        while not self._stopping:
            self.beat = time.monotonic()
            try:
                while not self._stopping and not self._draining and await self._place_one():
                    self.beat = time.monotonic()
                await self._tell_positions()
            except DiptychError as error:
                log.error("the queue could not be read: %s", error.message)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("the queue could not be served")
                await asyncio.sleep(RETRY_SECONDS)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
            self._wake.clear()

    async def _place_one(self) -> bool:
        """Start the first queued job that can start now; False when none can."""
        for job in order_heads(await asyncio.to_thread(self._store.heads), self._served):
            try:
                card = await asyncio.to_thread(self._library.get, job.model)
                held = self._pool.want(card, self._wanted.get(job.id, self._began))
            except DiptychError as error:
                await self._refuse(job, error)
                return True
            if held is not None and self._room(held, job):
                return await self._begin(job, card, held)
        return False

    def _room(self, held: Held, job: Waiting) -> bool:
        """Enough work to fill the runner's batch, and always a place for a caller who has none there."""
        users = held.users
        full = held.pictures >= self._settings.image_batch or users.total() >= JOBS_PER_RUNNER
        return not self._pool.draining(held.card.id) and (not full or job.caller not in users)

    async def _begin(self, job: Waiting, card: Card, held: Held) -> bool:
        claimed = await asyncio.to_thread(self._store.claim, job.id)
        if claimed is None:
            return True
        self._wanted.pop(job.id, None)
        self._turn += 1
        self._served[job.caller] = self._turn
        execution = Execution(claimed, held, self._store, self._hub, self._settings)
        self._running[job.id] = execution
        held.enter(job.caller, claimed.spec.count)
        with bound(job_id=job.id, model=card.id, runner_id=held.runner.id if held.runner else None):
            execution.task = asyncio.create_task(self._run(execution))
        return True

    async def _run(self, execution: Execution) -> None:
        job, held = execution.job, execution.held
        self._hub.publish(job.id, Started(attempt=job.attempts))
        try:
            await execution.run()
        except asyncio.CancelledError:
            await asyncio.to_thread(self._store.requeue, job.id, attempt=job.attempts, uncount=True)
            raise
        except Exception:
            # The store could not be written: the job stays "running" in it and is found by the next start.
            log.exception("job %s could not be settled", job.id)
            self._hub.publish(job.id, Failed(message="the job's end could not be written to the database"))
        finally:
            self._running.pop(job.id, None)
            self._pool.release(held, job.caller, job.spec.count)
        await self._learn(execution)

    async def _learn(self, execution: Execution) -> None:
        measured = execution.speed()
        if measured is not None:
            key, seconds = measured
            with contextlib.suppress(Unavailable):
                self._speeds[key] = await asyncio.to_thread(
                    self._measurements.record, key[0], "step_seconds", key[1], seconds)

    async def _refuse(self, job: Waiting, error: DiptychError) -> None:
        """End a job whose model is gone or could not be loaded. Where the runner died of it, the job has its other
        attempts."""
        claimed = await asyncio.to_thread(self._store.claim, job.id)
        if claimed is None:
            return
        if error.code == "runner_died" and claimed.attempts < claimed.max_attempts:
            self._wanted[job.id] = time.monotonic()
            await asyncio.to_thread(self._store.requeue, job.id, attempt=claimed.attempts)
            return
        self._wanted.pop(job.id, None)
        await asyncio.to_thread(
            self._store.finish, job.id, JobState.FAILED, attempt=claimed.attempts, error=error.message,
            status=error.status)
        self._hub.publish(job.id, Failed(message=error.message, status=error.status, param=error.param,
                                         code=error.code))

    async def _tell_positions(self) -> None:
        watched = set(self._hub.watched()) - set(self._running)
        if watched:
            for job, position, eta in await self.queue():
                if job.id in watched and job.id not in self._running:
                    self._hub.publish(job.id, Queued(position=position, eta_seconds=eta))


def replay(job: Job) -> list[Event]:
    """The events of a job that has ended, from its record."""
    events: list[Event] = [
        ArtifactReady(index=file.index, path=str(Path(file.path)), media_type=file.media_type, seed=file.seed,
                      width=file.width, height=file.height) for file in job.artifacts]
    if job.state is JobState.FAILED:
        return [*events, Failed(message=job.error or "the job failed", status=job.error_status or 503)]
    return [*events, Finished(reason="cancelled" if job.state is JobState.CANCELLED else "stop")]
