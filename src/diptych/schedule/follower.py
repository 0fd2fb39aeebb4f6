"""Tells those who watch a job what becomes of it where this gateway does not run it: its place in the queue, and the
work of another gateway as the database shows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from diptych.core.errors import DiptychError
from diptych.core.events import ArtifactReady, Event, Failed, Finished, Progress, Queued, Started
from diptych.core.jobs import Artifact, Job, JobState
from diptych.core.painting import steps_of
from diptych.schedule.hub import Hub
from diptych.schedule.outlook import Outlook
from diptych.store.jobs import JobStore

TELL_SECONDS = 1.0
"""Between two messages about a place in the queue."""
POLL_SECONDS = 0.5
"""Between two looks at jobs that others run."""

log = logging.getLogger("diptych.follower")


class Follower:
    """Belongs to one event loop.

    Args:
        runs_here: whether the dispatcher runs a job now; it tells of those itself.
    """

    def __init__(self, store: JobStore, hub: Hub, outlook: Outlook, runs_here: Callable[[str], bool]) -> None:
        self._store, self._hub, self._outlook, self._runs_here = store, hub, outlook, runs_here
        self._seen: dict[str, Job] = {}
        self._told: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._main())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def look(self) -> None:
        """Somebody began to watch, or the queue has changed."""
        self._wake.set()

    async def _main(self) -> None:
        while True:
            try:
                await self._tell()
            except DiptychError as error:
                log.error("what is watched could not be read: %s", error.message)
            except Exception:
                log.exception("what is watched could not be told")
            await self._pause()

    async def _pause(self) -> None:
        """At least a moment; longer where nobody waits for anything."""
        await asyncio.sleep(0.02)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS if self._elsewhere() else None)
        self._wake.clear()

    def _elsewhere(self) -> list[str]:
        return [id for id in self._hub.watched() if not self._runs_here(id)]

    async def _tell(self) -> None:
        watched = self._elsewhere()
        for id in [id for id in self._seen if id not in watched]:
            del self._seen[id]
            self._told.pop(id, None)
            if not self._runs_here(id):
                self._hub.drop(id)
        if not watched:
            return
        found = {job.id: job for job in await asyncio.to_thread(self._store.get_many, watched)}
        now = time.monotonic()
        due = [id for id, job in found.items()
               if job.state is JobState.QUEUED and self._told.get(id, 0.0) <= now - TELL_SECONDS]
        places = await asyncio.to_thread(self._outlook.places, due) if due else {}
        for id, job in found.items():
            if self._runs_here(id):  # begun meanwhile: the run tells
                continue
            for event in changes(self._seen.get(id), job):
                self._hub.pass_on(id, event)
            self._seen[id] = job
            if id in places:
                self._told[id] = now
                self._hub.pass_on(id, Queued(position=places[id].position, eta_seconds=places[id].eta_seconds))


def changes(old: Job | None, new: Job) -> list[Event]:
    """What a watcher who knows `old` has to be told of a job that another gateway runs. Places are told apart from
    this."""
    known = {file.index for file in old.artifacts} if old else set()
    if new.state.final:
        return replay(new, known)
    events: list[Event] = []
    if new.state is JobState.RUNNING and (
            old is None or old.state is not JobState.RUNNING or old.attempts != new.attempts):
        events.append(Started(attempt=new.attempts))
    events += ready(new.artifacts, known)
    if new.state is JobState.RUNNING and new.progress and (old is None or old.progress != new.progress):
        steps = steps_of(new.spec) * new.spec.count
        events.append(Progress(step=round(new.progress * steps), steps=steps))
    return events


def replay(job: Job, known: Collection[int] = ()) -> list[Event]:
    """The events of a job that has ended, from its record; without the pictures that are known."""
    events: list[Event] = ready(job.artifacts, known)
    if job.state is JobState.FAILED:
        return [*events, Failed(message=job.error or "the job failed", status=job.error_status or 503)]
    return [*events, Finished(reason="cancelled" if job.state is JobState.CANCELLED else "stop")]


def ready(files: Iterable[Artifact], known: Collection[int] = ()) -> list[Event]:
    """That these pictures are there; without those whose indices are known."""
    return [ArtifactReady(index=file.index, path=str(Path(file.path)), media_type=file.media_type, seed=file.seed,
                          width=file.width, height=file.height) for file in files if file.index not in known]
