"""A whole studio without its HTTP side: real store, library, launcher and runner processes around a small engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from paint_engine import ENGINE

from diptych.core.jobs import Job, JobState
from diptych.core.specs import ImageSpec
from diptych.library import Library
from diptych.runners.local import Launcher
from diptych.schedule.dispatcher import Dispatcher
from diptych.schedule.hub import Hub
from diptych.settings import Settings
from diptych.store.jobs import JobStore


class Studio:
    """`async with Studio(settings)`: a dispatcher at work."""

    def __init__(self, settings: Settings, engine: str = ENGINE) -> None:
        self.settings = settings
        self.store = JobStore(settings.url)
        self.store.migrate()
        self.hub = Hub()
        self.launcher = Launcher(settings, engine_of=lambda card: engine, spare_engine=engine)
        self.dispatcher = Dispatcher(settings, self.store, Library(settings), self.launcher, self.hub)

    async def __aenter__(self) -> Studio:
        await self.dispatcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispatcher.stop()
        self.store.close()

    async def submit(self, prompt: str, caller: str = "ann", **spec: Any) -> Job:
        values = {"model": "paint", "steps": 2, "count": 1, "seed": 7, **spec}
        return await self.dispatcher.submit(ImageSpec(prompt=prompt, **values), caller=caller)

    async def until(self, job: Job, *states: JobState, seconds: float = 60) -> Job:
        """Wait until the job is in one of `states`, by default any final one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.store.get(job.id)
            if found.state in states or (not states and found.state.final):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"job is {self.store.get(job.id)}, not in {states or 'a final state'}")

    async def wait_for(self, what: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.02)

    async def until_painted(self, job: Job) -> None:
        """Wait for the job's first picture."""
        await self.wait_for(lambda: bool(self.store.get(job.id).artifacts))

    def made(self, job: Job) -> list[int]:
        """Indices of the pictures that were painted, in order, also those painted twice."""
        lines = (self.settings.artifacts_dir / job.id / "made.log").read_text().splitlines()
        return [int(line.split()[0]) for line in lines]

    def pid(self, model: str = "paint") -> int:
        (found,) = [info.pid for info in self.dispatcher.runners() if info.model == model]
        assert found is not None
        return found


Open = Callable[..., Awaitable[Studio]]
