"""A caller with 200 queued pictures delays another's single picture by one step of a batch and no more. With the real
image engine on a tiny model; counted in steps, not in seconds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dispatch_studio import Studio

from diptych.core.events import Event, Finished, Progress, Started
from diptych.core.jobs import Job, JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.settings import Settings

pytestmark = pytest.mark.anyio
FLOOD = 200
STEPS = 400
"""Of each picture of the flood: none is done while the test looks."""
OWN = 12


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder of models that holds `tiny`."""
    folder = tmp_path_factory.mktemp("tiny-models")
    shutil.copytree(tiny_model, folder / "tiny")
    return folder


@pytest.fixture
async def studio(tmp_path: Path, tiny: Path) -> AsyncIterator[Studio]:
    settings = Settings(data_dir=tmp_path, model_dirs=(tiny,), warm_spare=False, threads=1, image_batch=16)
    async with Studio(settings, engine="image") as opened:
        yield opened


def spec(steps: int) -> ImageSpec:
    return ImageSpec(model="tiny", prompt="a cat", steps=steps, width=64, height=64, seed=1, guidance=1.0)


class Watch:
    """The events of a job as they come; the step that it has come to."""

    def __init__(self, studio: Studio, job: Job) -> None:
        self.step, self.begun, self.ended = 0, False, asyncio.Event()
        self.steps_at_first: int | None = None
        self._studio, self._job = studio, job
        self.task = asyncio.create_task(self._follow())
        self.other: Watch | None = None

    async def _follow(self) -> None:
        async for event in self._studio.dispatcher.events(self._job.id):
            self._take(event)
        self.ended.set()

    def _take(self, event: Event) -> None:
        self.begun = self.begun or isinstance(event, Started)
        if isinstance(event, Progress):
            self.step = event.step
            if self.other is not None and self.steps_at_first is None:
                self.steps_at_first = self.other.step - event.step
        if isinstance(event, Finished):
            self.ended.set()


async def test_a_flood_delays_a_newcomer_by_no_more_than_a_step(studio: Studio) -> None:
    flood = [await studio.dispatcher.submit(spec(STEPS), caller="flood") for _ in range(FLOOD)]
    first = Watch(studio, flood[0])
    await studio.wait_for(lambda: studio.dispatcher.executions >= 16 and first.step > 3, seconds=120)
    before = {job.id for job in flood if studio.dispatcher.executing(job.id)}
    newcomer = await studio.dispatcher.submit(spec(OWN), caller="bob")
    watch = Watch(studio, newcomer)
    watch.other = first
    await asyncio.wait_for(watch.ended.wait(), 120)
    # While the newcomer took its twelve steps, the flood's first picture took as many: they shared every step. It did
    # not take more in between, which it would have, had the newcomer waited for a place in the batch even once.
    assert watch.steps_at_first is not None
    assert first.step - watch.steps_at_first <= OWN + 2
    # No job of the flood was begun before it: it had a place at once, beside a batch that was full.
    assert {job.id for job in flood if studio.dispatcher.executing(job.id)} <= before
    assert studio.store.get(newcomer.id).state is JobState.SUCCEEDED
    assert not any(studio.store.get(id).state.final for id in before)
    for task in (first.task, watch.task):
        task.cancel()
    await asyncio.gather(first.task, watch.task, return_exceptions=True)


async def test_an_interactive_picture_does_not_wait_for_the_caller_s_own_batch(studio: Studio) -> None:
    flood = [await studio.dispatcher.submit(spec(STEPS), caller="ann", priority=Priority.BATCH) for _ in range(40)]
    await studio.wait_for(lambda: studio.dispatcher.executions >= 16, seconds=120)
    urgent = await studio.dispatcher.submit(spec(OWN), caller="ann")
    assert (await studio.until(urgent, seconds=120)).state is JobState.SUCCEEDED
    assert not any(studio.store.get(job.id).state.final for job in flood)
