"""From the queue to the runners and back: claim → plan → run → update. Chat goes the same way without a record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection

from diptych.core.cards import Card
from diptych.core.checks import check
from diptych.core.errors import Conflict, DiptychError, InvalidRequest, NotFound, Unavailable
from diptych.core.events import Event, Failed, Finished, Started
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.logs import bound
from diptych.core.painting import shape_of
from diptych.core.specs import JobSpec, LiveSpec
from diptych.library import Library
from diptych.runners.local import Launcher
from diptych.runners.upstream import Upstreams
from diptych.schedule.execution import Execution
from diptych.schedule.fairness import Affinity, Turns
from diptych.schedule.follower import Follower, ready, replay
from diptych.schedule.heart import Heart
from diptych.schedule.hub import Hub
from diptych.schedule.live import answer
from diptych.schedule.outlook import Outlook, Place
from diptych.schedule.placing import cards_of, is_newcomer, settled
from diptych.schedule.pool import Held, RunnerInfo, RunnerPool
from diptych.schedule.references import References
from diptych.schedule.speeds import NAME, Speeds, Work, work_of
from diptych.schedule.suspects import Disk, Suspects
from diptych.settings import Settings
from diptych.store.jobs import JobStore, new_id
from diptych.store.lines import Waiting
from diptych.store.measurements import Measurements

LOOK_SECONDS = 5.0
"""The queue is looked at this often even when nothing seems to have changed."""
LOOK_AT_SHARED_SECONDS = 1.0
"""The same, where other gateways accept jobs too."""
JOBS_PER_RUNNER, SHOWN_JOBS = 64, 1000
"""So many of the queue are told where nobody asks for more."""
RETRY_SECONDS = 1.0
STOP_SECONDS = 5.0
"""How long a claim that is under way may take to be finished at a stop."""

log = logging.getLogger("diptych.dispatcher")


class Dispatcher:
    """Runs the queue from `start` until `stop`. Belongs to one event loop.

    Args:
        weight_of: turns that a caller gets for each turn of a caller of weight 1; by default as the settings say.
    """

    def __init__(
        self, settings: Settings, store: JobStore, library: Library, launcher: Launcher, hub: Hub,
        weight_of: Callable[[str], float] | None = None,
    ) -> None:
        self._settings, self._store, self._library, self._hub = settings, store, library, hub
        self._measurements = Measurements(store.database)
        self._wake = asyncio.Event()
        self._launcher = launcher
        self._pool = RunnerPool(settings, launcher, self._measurements, self._wake.set)
        self._upstreams = Upstreams(settings)
        self._references = References(settings, library)
        self._suspects, self._disk = Suspects(), Disk(settings.artifacts_dir)
        self._running: dict[str, Execution] = {}
        self._claiming: set[str] = set()
        self._turns = Turns(weight_of or (lambda caller: settings.caller_weights.get(caller, 1.0)))
        self._affinity = Affinity()
        self._speeds = Speeds()
        self._outlook = Outlook(store, self._turns, self._speeds, settings.image_batch, self._work_here)
        self._follower = Follower(store, hub, self._outlook, lambda id: id in self.held())
        self._heart = Heart(settings, store, self)
        self._wanted: dict[str, float] = {}
        self._began = time.monotonic()
        self._look_seconds = LOOK_SECONDS if store.database.is_sqlite else LOOK_AT_SHARED_SECONDS
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._draining = False
        self.beat = time.monotonic()
        """When the loop last came round, as `time.monotonic()`."""

    async def start(self) -> None:
        """Take up the queue where it was left: what ran when the last gateway died is queued again.

        Raises:
            Unavailable: another gateway works on this data folder, or the database cannot be used.
        """
        await self._heart.start()
        for (model, shape), seconds in (await asyncio.to_thread(self._measurements.all, NAME)).items():
            self._speeds.take(model, shape, seconds)
        await self._pool.start()
        self._launcher.warm()
        self._follower.start()
        self._main = asyncio.create_task(self._loop())
        self._wake.set()

    async def stop(self) -> None:
        """Put running jobs back into the queue, without counting the attempt, and end all runners."""
        self._stopping = True
        self._wake.set()
        await self._heart.leaving()
        if self._main is not None:
            # Not cancelled at once: a claim that is under way in a thread would be made, and nobody would know.
            await asyncio.wait([self._main], timeout=STOP_SECONDS)
            self._main.cancel()
        await self._end_runs()
        await self._follower.stop()
        await self._heart.stop()
        self._hub.close()
        await self._pool.stop()
        await self._upstreams.stop()

    async def _end_runs(self) -> None:
        tasks = [execution.task for execution in self._running.values() if execution.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def held(self) -> Collection[str]:
        """Jobs that run here or are just being claimed."""
        return {*self._running, *self._claiming}

    def cancel_here(self, id: str) -> None:
        """Cancel the run of a job, if it runs here."""
        execution = self._running.get(id)
        if execution is not None and execution.cancelling is None:
            execution.cancelling = asyncio.create_task(execution.cancel())

    async def drop_all(self) -> None:
        """End all runs and write nothing: this gateway was taken for dead, and they are others' now."""
        for execution in self._running.values():
            execution.lost = True
        await self._end_runs()

    def look(self) -> None:
        """The queue may have changed."""
        self._wake.set()
        self._follower.look()

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

    async def submit(self, spec: JobSpec, *, caller: str, priority: Priority = Priority.INTERACTIVE) -> Job:
        """Accept an image job; its seed and size are filled in, so that it stays the same job whenever it runs.

        Raises:
            NotFound: no such model, or no such file beside it. TooLarge: the queue is full.
            InvalidRequest: the model cannot do what the spec asks for, or can never fit.
        """
        card = await asyncio.to_thread(self._library.get, spec.model)
        check(spec, card)
        spec = settled(spec, card)
        await asyncio.to_thread(self._references.found, spec, card)
        self._pool.check_fits(card, shape_of(spec))
        id = new_id()
        self._wanted[id] = time.monotonic()
        try:
            job = await asyncio.to_thread(
                self._store.submit, spec, id=id, caller=caller, priority=priority,
                limit=self._settings.max_queued_jobs, timeout_seconds=self._settings.job_timeout_seconds,
                max_attempts=self._settings.job_max_attempts)
        except DiptychError:
            self._wanted.pop(id, None)
            raise
        self.look()
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
            self._wanted.pop(id, None)
            self._hub.publish(id, Finished(reason="cancelled"))
        else:
            self.cancel_here(id)  # where another gateway runs it, that one reads the wish from the database
        self.look()
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
                        self._follower.look()  # tells a queued job its position
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
        self, spec: LiveSpec, *, caller: str = "local", stop: asyncio.Event | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer now. Closing the generator cancels the run and frees its slot. A runner that dies before the first
        token is replaced once, unseen.

        Args:
            stop: once it is set, the run is cancelled at its next event, and still tells its `Metrics` and end.

        Raises:
            NotFound, InvalidRequest, Unavailable: the model is not there, is no text model, or could not be loaded.
        """
        card = await asyncio.to_thread(self._library.get, spec.model)
        if card.panel != "text" and spec.kind != "interrogate":
            raise InvalidRequest(f"model {card.id!r} makes pictures, not text", param="model")
        source = self._upstreams.answer(card, spec, stop) if card.format == "upstream" else answer(
            self._pool, self._settings, card, spec, caller, stop)
        async with contextlib.aclosing(source) as events:
            async for event in events:
                yield event

    async def load(self, model: str, pinned: bool | None = None) -> RunnerInfo:
        """Have a model ready. `pinned`: it is not ended for another model, or for being idle; None leaves that as it
        is. Raises NotFound, InvalidRequest, Unavailable."""
        card = await asyncio.to_thread(self._library.get, model)
        if card.format == "upstream":
            raise InvalidRequest(f"model {card.id!r} is on another server, nothing is loaded here", param="model")
        return await self._pool.load(card, pinned)

    async def unload(self, model: str) -> None:
        """End a model's runner. Raises NotFound for an unknown model, Conflict when it is not loaded."""
        card = await asyncio.to_thread(self._library.get, model)
        if not await self._pool.unload(card.id):
            raise Conflict(f"model {card.id!r} is not loaded", param="model")

    def runners(self) -> list[RunnerInfo]:
        return self._pool.infos()

    @property
    def memory_budgets(self) -> dict[str, int]:
        """Bytes for all models, by device."""
        return self._pool.budgets

    async def queue(self, limit: int = SHOWN_JOBS) -> list[tuple[Job, int, float | None]]:
        """The first `limit` queued jobs in serving order with position (0: next) and the seconds until each will be
        done, where all the speeds that this depends on were measured."""
        return await asyncio.to_thread(self._outlook.queue, limit)

    async def place(self, id: str) -> Place | None:
        """Position and seconds of one queued job; None when it is not queued."""
        return (await asyncio.to_thread(self._outlook.places, [id])).get(id)

    def _work_here(self) -> list[Work]:
        return [work_of(execution.job.spec, execution.fraction) for execution in list(self._running.values())]

    async def _loop(self) -> None:
        while not self._stopping:
            self.beat = time.monotonic()
            try:
                while not self._stopping and not self._draining and await self._place_one():
                    self.beat = time.monotonic()
                self._follower.look()
            except DiptychError as error:
                log.error("the queue could not be read: %s", error.message)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("the queue could not be served")
                await asyncio.sleep(RETRY_SECONDS)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._look_seconds)
            self._wake.clear()

    async def _place_one(self) -> bool:
        """Start the first queued job that can start now; False when none can."""
        heads = await asyncio.to_thread(self._store.heads)
        if not heads or not await asyncio.to_thread(self._disk.room):
            return False
        cards = await asyncio.to_thread(cards_of, self._library, {job.model for job in heads})
        costly = {id for id, card in cards.items() if isinstance(card, Card) and self._pool.pushes_out(card)}
        order, now = self._turns.order(heads), time.monotonic()
        self._affinity.keep(heads, costly)
        for job in self._affinity.arrange(order, costly, now):
            card = cards[job.model]
            try:
                if isinstance(card, NotFound) and self._heart.others:
                    continue  # whoever accepted it has the model
                if isinstance(card, DiptychError):
                    raise card
                held = self._pool.want(card, self._wanted.get(job.id, self._began), job.shape)
            except DiptychError as error:
                await self._refuse(job, error)
                return True
            if held is not None and self._room(held, job):
                if await self._begin(job, held):
                    self._affinity.began(job, order, costly, now)
                return True
            if job.model in costly and self._affinity.overdue(job, now):
                return False  # it waits for memory, and nothing that has a later turn may keep that from it
        return False

    def _room(self, held: Held, job: Waiting) -> bool:
        """Enough work to fill the runner's batch, and always a place for a caller who has nothing there of this class
        or above it."""
        beside = [other for other in self._running.values() if other.held is held]
        if self._pool.draining(held.card.id) or not self._suspects.bears(
                job.id, job.model, [other.job.id for other in beside]):
            return False
        if held.pictures < self._settings.image_batch and held.users.total() < JOBS_PER_RUNNER:
            return True
        return is_newcomer(job, beside)

    async def _begin(self, job: Waiting, held: Held) -> bool:
        """False when it was taken or cancelled this moment."""
        self._claiming.add(job.id)
        try:
            claimed = await asyncio.to_thread(self._store.claim, job.id)
            self._wanted.pop(job.id, None)
            if claimed is None:
                return False
            self._turns.took(job.priority, job.caller)
            execution = Execution(claimed, held, self._store, self._hub, self._settings, self._references)
            self._running[job.id] = execution
        finally:
            self._claiming.discard(job.id)
        held.enter(job.caller, claimed.spec.count)
        with bound(job_id=job.id, model=job.model, runner_id=held.runner.id if held.runner else None):
            execution.task = asyncio.create_task(self._run(execution))
        return True

    async def _run(self, execution: Execution) -> None:
        job, held = execution.job, execution.held
        self._hub.publish(job.id, Started(attempt=job.attempts))
        for event in ready(job.artifacts):  # made before this gateway began: who watches now has not heard of them
            self._hub.pass_on(job.id, event)
        try:
            await execution.run()
        except asyncio.CancelledError:
            if not execution.lost:
                await asyncio.to_thread(self._store.requeue, job.id, attempt=job.attempts, uncount=True)
            raise
        except Exception:
            # The store could not be written: the job stays "running" in it until the heart finds that it does not run.
            log.exception("job %s could not be settled", job.id)
        finally:
            self._running.pop(job.id, None)
            self._suspects.learn(job.id, job.attempts, job.max_attempts, execution.retry_reason is not None)
            self._disk.full = self._disk.full or execution.disk_full
            self._pool.release(held, job.caller, job.spec.count)
            self._follower.look()
        await self._learn(execution)

    async def _learn(self, execution: Execution) -> None:
        if (measured := execution.speed()) is not None:
            model, shape, together, _ = measured
            with contextlib.suppress(Unavailable):
                average = await asyncio.to_thread(self._speeds.record, self._measurements, *measured)
                self._speeds.learn(model, shape, together, average)

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
        await asyncio.to_thread(self._store.finish, job.id, JobState.FAILED, attempt=claimed.attempts,
                                error=error.message, status=error.status)
        self._hub.publish(
            job.id, Failed(message=error.message, status=error.status, param=error.param, code=error.code))
