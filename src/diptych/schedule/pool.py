"""The loaded models: which runner holds which, who uses it, and making room for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from diptych.core.cards import Card
from diptych.core.errors import DiptychError, Unavailable
from diptych.runners.local import Launcher, Options
from diptych.schedule.arbiter import Plan, Resident
from diptych.schedule.devices import cores, find_devices, memory_budgets
from diptych.schedule.estimate import IMAGE_RUNTIME, size_of_shape
from diptych.schedule.held import Held, RunnerInfo
from diptych.schedule.leases import Lease
from diptych.schedule.memory import MemoryPlan
from diptych.schedule.threads import Worker, share_threads, threads_to_load
from diptych.settings import Settings
from diptych.store.measurements import Measurements

MEASURED = "memory_bytes"
"""Name under which measured memory is stored."""
SPARE = "(warm spare)"
"""Name of the warm spare among those who hold memory."""
PATIENCE_SECONDS = 5.0
"""How long a model may wait for memory before the busy ones get no new work, so that they come to rest."""
STALE_SECONDS = 7.0
"""Who waits for memory asks again at least every five seconds; after this time it has given up."""
LOOK_SECONDS = 10.0
"""Between two looks at a runner's measured memory."""

__all__ = ["Held", "RunnerInfo", "RunnerPool"]
log = logging.getLogger("diptych.pool")


class _Ticket:
    """One who waits for a place."""

    def __init__(self, caller: str) -> None:
        self.caller = caller


class RunnerPool:
    """All runners of this gateway. Belongs to one event loop; `changed` is called whenever something may have become
    possible that was not.

    Raises:
        InvalidRequest: the settings name a device that is not there.
    """

    def __init__(
        self, settings: Settings, launcher: Launcher, measurements: Measurements, changed: Callable[[], None],
    ) -> None:
        self._settings, self._launcher, self._measurements = settings, launcher, measurements
        self._told = changed
        self._memory = MemoryPlan(settings, memory_budgets(settings, find_devices()))
        self._held: dict[str, Held] = {}
        self._ending: list[Held] = []
        self._failures: dict[str, tuple[DiptychError, float]] = {}
        self._waiting: dict[str, tuple[float, float]] = {}
        self._lines: dict[str, list[_Ticket]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cores = min(settings.threads, cores()) if settings.threads else cores()
        launcher.spare_fits = self._spare_fits

    @property
    def budget(self) -> int:
        """Bytes of the machine's memory for all models."""
        return self._memory.budget["cpu"]

    @property
    def budgets(self) -> dict[str, int]:
        """Bytes for all models, by device."""
        return self._memory.budget

    async def start(self) -> None:
        self._memory.measured.update(await asyncio.to_thread(self._measurements.all, MEASURED))
        if self._settings.runner_idle_seconds:
            self._spawn(self._end_idle(self._settings.runner_idle_seconds))

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.clear()
        await self._launcher.close()

    def infos(self) -> list[RunnerInfo]:
        """All that hold memory, also those that are ending."""
        return [held.info() for held in (*self._held.values(), *self._ending)]

    def check_fits(self, card: Card, shape: str | None = None) -> None:
        """Raises InvalidRequest, with the numbers, when `card`, or a picture of `shape` ("WIDTHxHEIGHT") by it, can
        never fit beside what is pinned."""
        self._memory.check(card, size_of_shape(shape or ""), self._residents())

    def want(self, card: Card, since: float, shape: str | None = None) -> Held | None:
        """The runner of `card` if it is ready; otherwise what is needed for that begins, as far as the plan allows.

        Args:
            since: when the caller began to want it, as `time.monotonic()` (the time of day may jump). A load that
                failed later is told to all who waited for it; who comes after that has it tried again.
            shape: of the picture that is wanted, "WIDTHxHEIGHT": a large one may need more room than the model has.

        Raises:
            DiptychError: it can never fit, or its load failed.
        """
        if card.id in self._failures:
            error, when = self._failures[card.id]
            if when >= since:
                raise copy.copy(error)
        held, size = self._held.get(card.id), size_of_shape(shape or "")
        if held is not None and (not held.ready or not held.roomy):
            return None
        decided = self._memory.decide(card, self._residents(card), size)
        if decided.mode == "wait":
            now = time.monotonic()
            first, last = self._waiting.get(card.id, (now, now))
            self._waiting[card.id] = (first if last > now - STALE_SECONDS else now, now)
            return None
        self._waiting.pop(card.id, None)
        self._failures.pop(card.id, None)
        if held is not None and decided.mode == "grow":
            self._grow(held, decided, size)
            return held if held.roomy else None
        if held is None:
            self._begin(card, decided, size)
        return held

    def pushes_out(self, card: Card) -> bool:
        """Whether another model would have to go, or come to rest, before `card` could be loaded."""
        if card.id in self._held:
            return False
        with contextlib.suppress(DiptychError):
            decided = self._memory.decide(card, self._residents(card))
            return any(model != SPARE for model in decided.evict) or decided.mode == "wait"
        return False

    def draining(self, model: str) -> bool:
        """True when another model has waited so long for memory that `model` gets no new work."""
        now = time.monotonic()
        return any(first < now - PATIENCE_SECONDS and last > now - STALE_SECONDS
                   for waiting, (first, last) in self._waiting.items() if waiting != model)

    async def acquire(self, card: Card, caller: str, slots: int) -> Held:
        """Wait for a place on a ready runner; pair with `release`. Of those who wait, the caller with the fewest
        places goes first, then who came first. Raises as `want` does."""
        await asyncio.to_thread(self._memory.estimator.read, card)
        since, line = time.monotonic(), self._lines.setdefault(card.id, [])
        ticket = _Ticket(caller)
        line.append(ticket)
        try:
            while True:
                held = self.want(card, since)
                if held is not None and held.users.total() < slots and not self.draining(card.id):
                    places = held.users
                    if min(line, key=lambda other: places[other.caller]) is ticket:
                        held.enter(caller)
                        return held
                await self.wait_changed()
        finally:
            line.remove(ticket)
            if not line:
                self._lines.pop(card.id, None)
            self.notify()

    def release(self, held: Held, caller: str, pictures: int = 0) -> None:
        held.leave(caller, pictures)
        if held.ready and time.monotonic() - held.looked > LOOK_SECONDS:
            held.looked = time.monotonic()
            self._spawn(self._look(held))
        self.notify()

    async def load(self, card: Card, pinned: bool | None = None) -> RunnerInfo:
        """Have `card` ready. `pinned`: whether it may be ended for another model or for being idle; None leaves that
        as it is."""
        await asyncio.to_thread(self._memory.estimator.read, card)
        since = time.monotonic()
        while (held := self.want(card, since)) is None:
            await self.wait_changed()
        if pinned is not None:
            held.pinned = pinned
            self.notify()
        await self._look(held)
        return held.info()

    async def unload(self, model: str) -> bool:
        """End the runner of `model`, also when it is busy: its durable jobs go back to the queue. Its memory counts
        until the process has gone."""
        held = self._held.get(model)
        if held is None:
            return False
        await self._end(held)
        return True

    async def wait_changed(self, seconds: float = 1.0) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._told()

    def _residents(self, wanted: Card | None = None) -> list[Resident]:
        """All that hold memory, the warm spare too, unless it will become the runner of `wanted`."""
        residents = [held.resident() for held in (*self._held.values(), *self._ending)]
        becomes = wanted is not None and wanted.panel == "image" and wanted.id not in self._held
        if self._launcher.has_spare and not becomes:
            lease = Lease(device="cpu", kind="runtime", bytes=IMAGE_RUNTIME)
            residents.append(Resident(model=SPARE, leases=(lease,), last_used=-1.0))
        return residents

    def _begin(self, card: Card, decided: Plan, size: tuple[int, int] | None) -> None:
        assert decided.placement is not None
        awaits = [self._mark(self._held[model]) for model in decided.evict if model != SPARE]
        held = Held(card, decided.placement, awaits, threads_to_load(card, self._cores, self._settings.text_threads),
                    self._balance)
        held.size = size
        self._held[card.id] = held
        self._spawn(self._load(held, awaits, SPARE in decided.evict))

    def _grow(self, held: Held, decided: Plan, size: tuple[int, int] | None) -> None:
        assert decided.placement is not None
        awaits = [self._mark(self._held[model]) for model in decided.evict if model != SPARE]
        held.grow(decided.placement.leases, awaits)
        held.size = size
        self._spawn(self._make_room(awaits, SPARE in decided.evict))

    def _mark(self, held: Held) -> Held:
        """From now on it is ending: it gets no work, and counts until its process has gone."""
        self._held.pop(held.card.id, None)
        held.ending = True
        self._ending.append(held)
        return held

    async def _end(self, held: Held) -> None:
        """End a runner and wait until it has gone. One that is still being started is ended when that is done."""
        if not held.ending:
            self._mark(held)
        if held.runner is not None:
            await held.runner.stop()
            self._forget(held)

    async def _make_room(self, awaits: list[Held], spare: bool) -> None:
        ends = [self._end(old) for old in awaits]
        if spare:
            ends.append(self._launcher.end_spare())
        await asyncio.gather(*ends)
        self.notify()

    async def _load(self, held: Held, awaits: list[Held], spare: bool) -> None:
        card = held.card
        try:
            await self._make_room(awaits, spare)
            runner = await self._launcher.start(card, held.threads, self._options(held))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            known = isinstance(error, DiptychError)
            if not known:
                log.exception("model %s could not be loaded", card.id)
            self._failures[card.id] = error if isinstance(error, DiptychError) else Unavailable(
                f"model {card.id!r} could not be loaded: {type(error).__name__}"), time.monotonic()
            self._forget(held)
            return
        held.runner = runner
        if held.ending:  # unloaded while it was loading
            await self._end(held)
            return
        held.last_used = time.monotonic()
        runner.on_exit(lambda: self._forget(held))
        self._spawn(self._look(held))
        self._balance()
        self.notify()

    def _forget(self, held: Held) -> None:
        """Its process has gone, and its memory is free."""
        if self._held.get(held.card.id) is held:
            del self._held[held.card.id]
        if held in self._ending:
            self._ending.remove(held)
        held.ending = False
        if held.runner is not None:
            self._spawn(held.runner.stop())  # it is gone already; this closes its connections
        self._balance()
        self.notify()

    async def _look(self, held: Held) -> None:
        """Measure what the runner holds: that replaces the estimate, now and at the next start."""
        if held.runner is None:
            return
        try:
            held.health = await held.runner.client.health()
        except Unavailable:
            return
        for model, label, size in self._memory.learn(held, held.health):
            with contextlib.suppress(Unavailable):
                await asyncio.to_thread(self._measurements.record, model, MEASURED, label, size)

    def _balance(self) -> None:
        """Share the processor between the runners that work now."""
        working = [held for held in self._held.values() if held.ready and held.users.total()]
        workers = [Worker(id=held.card.id, threads=held.threads, fixed=held.card.panel == "text") for held in working]
        for model, threads in share_threads(self._cores, workers).items():
            held = self._held[model]
            if held.threads != threads:
                held.threads = threads
                self._spawn(self._tell_threads(held))

    async def _tell_threads(self, held: Held) -> None:
        """Whatever it is told last is what is wanted now, should several of these be under way."""
        if held.runner is not None:
            with contextlib.suppress(Unavailable):
                await held.runner.client.set_threads(held.threads)

    def _spare_fits(self) -> bool:
        """Whether there is room for a warm spare beside what is loaded."""
        used = sum(lease.bytes for one in self._residents() for lease in one.leases if lease.device == "cpu")
        return used + IMAGE_RUNTIME <= self.budget

    async def _end_idle(self, idle: float) -> None:
        while True:
            await asyncio.sleep(min(30.0, idle / 4))
            late = time.monotonic() - idle
            for held in list(self._held.values()):
                if held.ready and not held.busy and not held.pinned and held.last_used < late:
                    log.info("model %s was idle, its runner ends", held.card.id)
                    await self.unload(held.card.id)

    def _options(self, held: Held) -> Options:
        if held.card.panel == "image":
            return {"image_batch": self._settings.image_batch, **held.placement.options}
        return {
            "slots": self._settings.text_slots, "context": self._settings.text_context,
            "cache_type": self._settings.text_cache_type, "flash_attention": self._settings.text_flash_attention,
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
