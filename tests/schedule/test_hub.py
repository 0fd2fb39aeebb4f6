"""The hub: what a watcher sees, early, late or slow."""

from __future__ import annotations

import asyncio

import pytest

from diptych.core.events import ArtifactReady, Event, Finished, Preview, Progress, Queued, Started
from diptych.schedule.hub import Hub

pytestmark = pytest.mark.anyio


async def collect(hub: Hub, job: str = "a") -> list[Event]:
    return [event async for event in hub.subscribe(job)]


async def test_everybody_sees_everything() -> None:
    hub = Hub()
    watchers = [asyncio.create_task(collect(hub)) for _ in range(3)]
    await asyncio.sleep(0)
    events = [Queued(position=0), Started(attempt=1), ArtifactReady(index=0, path="x"), Finished()]
    for event in events:
        hub.publish("a", event)
        await asyncio.sleep(0.01)
    hub.publish("b", Finished())
    assert [await watcher for watcher in watchers] == [events] * 3
    assert not hub.knows("a")
    assert hub.watched() == []


async def test_a_newcomer_gets_what_still_matters() -> None:
    hub = Hub()
    for step in range(50):
        hub.publish("a", Progress(step=step, steps=50))
        hub.publish("a", Preview(index=step % 2, step=step, png=""))
    for index in range(3):
        hub.publish("a", ArtifactReady(index=index, path=f"{index}"))
    watcher = asyncio.create_task(collect(hub))
    await asyncio.sleep(0)
    hub.publish("a", Finished())
    events = await watcher
    assert [event.step for event in events if isinstance(event, Progress)] == [49]
    assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]
    assert [event.index for event in events if isinstance(event, ArtifactReady)] == [0, 1, 2]


async def test_a_new_attempt_forgets_the_progress_but_not_the_pictures() -> None:
    hub = Hub()
    for event in (Started(attempt=1), ArtifactReady(index=0, path="0"), Progress(step=9, steps=10), Queued(position=0),
                  Started(attempt=2)):
        hub.publish("a", event)
    watcher = asyncio.create_task(collect(hub))
    await asyncio.sleep(0)
    hub.publish("a", Finished())
    assert await watcher == [ArtifactReady(index=0, path="0"), Started(attempt=2), Finished()]


async def test_a_slow_watcher_costs_little_and_misses_no_picture() -> None:
    hub = Hub()
    stream = hub.subscribe("a")
    hub.publish("a", Started(attempt=1))
    assert await anext(stream) == Started(attempt=1)
    for step in range(10_000):
        hub.publish("a", Progress(step=step, steps=10_000))
    for index in range(64):
        hub.publish("a", ArtifactReady(index=index, path=f"{index}"))
    hub.publish("a", Finished())
    rest = [event async for event in stream]
    assert len(rest) == 1 + 64 + 1
    assert rest[0] == Progress(step=9999, steps=10_000)
    assert rest[-1] == Finished()


async def test_a_watcher_who_leaves_is_forgotten_and_close_ends_the_others() -> None:
    hub = Hub()
    leaver = asyncio.create_task(collect(hub))
    stayer = asyncio.create_task(collect(hub))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    assert hub.watched() == ["a"]
    hub.close()
    assert await stayer == []
    assert await collect(hub) == []
    assert hub.watched() == []
