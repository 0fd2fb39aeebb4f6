"""The loaded models: which runner holds which, who uses it, and making room for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from diptych.core.cards import Card
from diptych.core.errors import DiptychError, InvalidRequest, Unavailable
from diptych.core.protocol import Health
from diptych.runners.local import Launcher, Options, Runner
from diptych.schedule.arbiter import Plan, Request, Resident, plan
from diptych.schedule.estimate import bytes_needed
from diptych.settings import Settings
from diptych.store.measurements import Measurements

MEMORY_SHARE = 0.8
PATIENCE_SECONDS = 5.0
"""How long a model may wait for memory before the busy ones get no new work, so that they come to rest."""
STALE_SECONDS = 7.0
"""Who waits for memory asks again at least every five seconds; after this time it has given up."""
LOOK_SECONDS = 10.0
"""Between two looks at a runner's measured memory."""

log = logging.getLogger("diptych.pool")


class RunnerInfo(BaseModel):
    """A runner as the API shows it. `bytes_leased` is what the plan counts for it. `idle_seconds` is 0 while it
    works."""

    model_config = ConfigDict(frozen=True)

    id: str | None
    model: str
    engine: str | None
    state: str
    running: int
    bytes_leased: int
    bytes_resident: int
    bytes_peak: int
    pid: int | None
    started_at: datetime
    idle_seconds: float = 0.0


class Held:
    """One model and its runner, from the decision to load it until its process has ended."""

    def __init__(self, card: Card, size: int) -> None:
        self.card, self.bytes = card, size
        self.runner: Runner | None = None
        self.users: Counter[str] = Counter()
        self.pictures = 0
        self.pinned = False
        self.started_at = datetime.now(timezone.utc)
        self.last_used = time.monotonic()
        self.looked = 0.0
        self.health: Health | None = None

    @property
    def ready(self) -> bool:
        return self.runner is not None and self.runner.alive

    @property
    def busy(self) -> bool:
        return self.runner is None or self.users.total() > 0

    def enter(self, caller: str, pictures: int = 0) -> None:
        self.users[caller] += 1
        self.pictures += pictures

    def leave(self, caller: str, pictures: int = 0) -> None:
        self.users[caller] -= 1
        if not self.users[caller]:
            del self.users[caller]
        self.pictures -= pictures
        self.last_used = time.monotonic()

    def resident(self) -> Resident:
        return Resident(
            model=self.card.id, bytes=self.bytes, busy=self.busy, pinned=self.pinned, last_used=self.last_used)

    def info(self) -> RunnerInfo:
        runner, health = self.runner, self.health
        return RunnerInfo(
            id=runner.id if runner else None, model=self.card.id, engine=runner.engine if runner else None,
            state="ready" if self.ready else "loading", running=self.users.total(), bytes_leased=self.bytes,
            bytes_resident=health.bytes_resident if health else 0, bytes_peak=health.bytes_peak if health else 0,
            pid=runner.process.pid if runner else None, started_at=self.started_at,
            idle_seconds=0.0 if self.busy else round(time.monotonic() - self.last_used, 1))


class _Ticket:
    """One who waits for a place."""

    def __init__(self, caller: str) -> None:
        self.caller = caller


class RunnerPool:
    """All runners of this gateway. Belongs to one event loop; `changed` is called whenever something may have become
    possible that was not."""

    def __init__(
        self, settings: Settings, launcher: Launcher, measurements: Measurements, changed: Callable[[], None],
    ) -> None:
        self._settings, self._launcher, self._measurements = settings, launcher, measurements
        self._told = changed
        self._held: dict[str, Held] = {}
        self._failures: dict[str, tuple[DiptychError, float]] = {}
        self._waiting: dict[str, tuple[float, float]] = {}
        self._lines: dict[str, list[_Ticket]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._measured: dict[tuple[str, str], float] = {}
        self.budget = settings.memory_bytes or int(psutil.virtual_memory().total * MEMORY_SHARE)

    async def start(self) -> None:
        self._measured = await asyncio.to_thread(self._measurements.all, "bytes")
        self._spawn(self._end_idle())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.clear()
        await self._launcher.close()

    def infos(self) -> list[RunnerInfo]:
        return [held.info() for held in self._held.values()]

    def check_fits(self, card: Card) -> None:
        """Raises InvalidRequest, with the numbers, when `card` cannot fit into an empty budget."""
        self._refuse(card, plan(self._request(card), (), self.budget))

    def want(self, card: Card, since: float) -> Held | None:
        """The runner of `card` if it is ready; otherwise what is needed for that begins, as far as the plan allows.

        Args:
            since: when the caller began to want it, as `time.monotonic()` (the time of day may jump). A load that
                failed later is told to all who waited for it; who comes after that has it tried again.

        Raises:
            DiptychError: it can never fit, or its load failed.
        """
        if card.id in self._failures:
            error, when = self._failures[card.id]
            if when >= since:
                raise copy.copy(error)
        held = self._held.get(card.id)
        if held is not None:
            return held if held.ready else None
        decided = plan(self._request(card), [h.resident() for h in self._held.values()], self.budget)
        self._refuse(card, decided)
        if decided.mode == "wait":
            now = time.monotonic()
            first, last = self._waiting.get(card.id, (now, now))
            self._waiting[card.id] = (first if last > now - STALE_SECONDS else now, now)
            return None
        self._waiting.pop(card.id, None)
        self._failures.pop(card.id, None)
        evicted = [self._held.pop(model) for model in decided.evict]
        self._held[card.id] = held = Held(card, self._request(card).bytes)
        self._spawn(self._load(held, evicted))
        return None

    def pushes_out(self, card: Card) -> bool:
        """Whether another model would have to go, or come to rest, before `card` could be loaded."""
        if card.id in self._held:
            return False
        decided = plan(self._request(card), [held.resident() for held in self._held.values()], self.budget)
        return bool(decided.evict) or decided.mode == "wait"

    def draining(self, model: str) -> bool:
        """True when another model has waited so long for memory that `model` gets no new work."""
        now = time.monotonic()
        return any(first < now - PATIENCE_SECONDS and last > now - STALE_SECONDS
                   for waiting, (first, last) in self._waiting.items() if waiting != model)

    async def acquire(self, card: Card, caller: str, slots: int) -> Held:
        """Wait for a place on a ready runner; pair with `release`. Of those who wait, the caller with the fewest
        places goes first, then who came first. Raises as `want` does."""
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

    async def load(self, card: Card) -> RunnerInfo:
        """Have `card` ready."""
        since = time.monotonic()
        while (held := self.want(card, since)) is None:
            await self.wait_changed()
        await self._look(held)
        return held.info()

    async def unload(self, model: str) -> bool:
        """End the runner of `model`, also when it is busy: its durable jobs go back to the queue."""
        held = self._held.pop(model, None)
        if held is not None and held.runner is not None:
            await held.runner.stop()
        self.notify()
        return held is not None

    async def wait_changed(self, seconds: float = 1.0) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._told()

    def _request(self, card: Card) -> Request:
        return Request(model=card.id, bytes=bytes_needed(card, self._settings, self._measured))

    def _refuse(self, card: Card, decided: Plan) -> None:
        if decided.mode == "refuse":
            need = self._request(card).bytes
            raise InvalidRequest(
                f"model {card.id!r} needs about {need / 2**20:.0f} MiB, but the budget for models is "
                f"{self.budget / 2**20:.0f} MiB; raise DIPTYCH_MEMORY_BYTES or use a smaller model",
                param="model", code="insufficient_memory")

    async def _load(self, held: Held, evicted: list[Held]) -> None:
        card = held.card
        try:
            await asyncio.gather(*(old.runner.stop() for old in evicted if old.runner is not None))
            runner = await self._launcher.start(card, self._threads(), self._options(card))
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
        if self._held.get(card.id) is not held:  # unloaded while it was loading
            await runner.stop()
            return
        held.runner = runner
        held.last_used = time.monotonic()
        runner.on_exit(lambda: self._forget(held))
        self._spawn(self._look(held))
        self.notify()

    def _forget(self, held: Held) -> None:
        if self._held.get(held.card.id) is held:
            del self._held[held.card.id]
        if held.runner is not None:
            self._spawn(held.runner.stop())  # it is gone already; this closes its connections
        self.notify()

    async def _look(self, held: Held) -> None:
        """Measure what the runner holds; the peak replaces the estimate, now and at the next start."""
        if held.runner is None:
            return
        try:
            held.health = await held.runner.client.health()
        except Unavailable:
            return
        held.bytes = max(held.health.bytes_resident, held.health.bytes_peak)
        key = held.card.fingerprint or held.card.id
        self._measured[key, "peak"] = float(held.bytes)
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._measurements.record, key, "bytes", "peak", float(held.bytes))

    async def _end_idle(self) -> None:
        idle = self._settings.runner_idle_seconds
        while True:
            await asyncio.sleep(min(30.0, idle / 4))
            late = time.monotonic() - idle
            for held in list(self._held.values()):
                if held.ready and not held.busy and not held.pinned and held.last_used < late:
                    log.info("model %s was idle, its runner ends", held.card.id)
                    await self.unload(held.card.id)

    def _threads(self) -> int:
        return self._settings.threads or psutil.cpu_count() or 1

    def _options(self, card: Card) -> Options:
        if card.panel == "image":
            return {"image_batch": self._settings.image_batch}
        return {
            "slots": self._settings.text_slots, "context": self._settings.text_context,
            "cache_type": self._settings.text_cache_type, "flash_attention": self._settings.text_flash_attention,
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
