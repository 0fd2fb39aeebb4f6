"""Events of jobs, from whoever works to whoever watches. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from diptych.core.events import ArtifactReady, Event, Failed, Finished, Metrics, Preview, Progress, Queued, Started


class Hub:
    """Passes events on. A job is known here from its first event to its last; a watcher that comes later asks the
    store. A slow watcher costs no more than one event per kind and picture: newer ones replace older ones."""

    def __init__(self) -> None:
        self._so_far: dict[str, dict[str, Event]] = {}
        self._watchers: dict[str, set[_Watcher]] = {}
        self._closed = False

    def publish(self, job_id: str, event: Event) -> None:
        """Tell all watchers of a job something that happened here; a final event makes the hub forget the job."""
        self.pass_on(job_id, event)

    def pass_on(self, job_id: str, event: Event) -> None:
        """As `publish`, for what happened elsewhere and was read from the database. A picture is told once."""
        if isinstance(event, ArtifactReady) and _key(event) in self._so_far.get(job_id, {}):
            return
        for watcher in self._watchers.get(job_id, ()):
            watcher.put(event)
        if isinstance(event, (Finished, Failed)):
            self._so_far.pop(job_id, None)
            self._watchers.pop(job_id, None)
            return
        _merge(self._so_far.setdefault(job_id, {}), event)

    def drop(self, job_id: str) -> None:
        """Forget what a job has told so far, unless somebody watches it."""
        if job_id not in self._watchers:
            self._so_far.pop(job_id, None)

    def knows(self, job_id: str) -> bool:
        return job_id in self._so_far

    def last_progress(self, job_id: str) -> Progress | None:
        found = self._so_far.get(job_id, {}).get("progress")
        return found if isinstance(found, Progress) else None

    def watched(self) -> list[str]:
        """Jobs that somebody watches."""
        return list(self._watchers)

    async def subscribe(self, job_id: str) -> AsyncGenerator[Event, None]:
        """The events that a newcomer needs (state, last progress and preview, all artifacts), then those that come.
        Ends after the final event, or when the hub closes."""
        watcher = _Watcher(self._so_far.get(job_id, {}))
        watchers = self._watchers.setdefault(job_id, set())
        watchers.add(watcher)
        if self._closed:
            watcher.close()
        try:
            while events := await watcher.take():
                for event in events:
                    yield event
                    if isinstance(event, (Finished, Failed)):
                        return
        finally:
            watchers.discard(watcher)
            if not watchers and self._watchers.get(job_id) is watchers:
                del self._watchers[job_id]

    def close(self) -> None:
        """End every subscription: the server stops."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()


class _Watcher:
    def __init__(self, so_far: dict[str, Event]) -> None:
        self._waiting = dict(so_far)
        self._wake = asyncio.Event()
        self._closed = False
        if so_far:
            self._wake.set()

    def put(self, event: Event) -> None:
        _merge(self._waiting, event)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def take(self) -> list[Event]:
        """All that waits; empty when it is closed."""
        while not self._waiting and not self._closed:
            await self._wake.wait()
            self._wake.clear()
        events = list(self._waiting.values())
        self._waiting.clear()
        return events


def _merge(events: dict[str, Event], event: Event) -> None:
    """Put `event` last, in place of an older one that it makes worthless."""
    if isinstance(event, (Queued, Started)):
        # A new attempt: what the last one said about its progress no longer holds. Its pictures stay.
        stale = (Queued, Started, Progress, Preview, Metrics)
        for key in [key for key, old in events.items() if isinstance(old, stale)]:
            del events[key]
    key = _key(event)
    events.pop(key, None)
    events[key] = event


def _key(event: Event) -> str:
    kind = str(getattr(event, "type", "event"))
    return f"{kind} {event.index}" if isinstance(event, (ArtifactReady, Preview)) else kind
