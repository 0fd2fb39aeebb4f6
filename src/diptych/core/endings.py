"""Streams that end early when something happens, at no cost per item."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import TypeVar

Item = TypeVar("Item")


async def until_set(
    source: AsyncGenerator[Item, None], event: asyncio.Event, grace_seconds: float = 0.0,
) -> AsyncGenerator[Item, None]:
    """The items of `source` until it ends, or until `event` has been set for `grace_seconds`. Closes `source`.

    Whoever waits for the next item is interrupted by a cancellation that does not leave this generator, as with
    `asyncio.timeout`. A race of two tasks for every item would say the same, and cost a tenth of a millisecond each.
    """
    waiting: asyncio.Task[object] | None = None
    over = False

    async def watch() -> None:
        nonlocal over
        await event.wait()
        await asyncio.sleep(grace_seconds)
        over = True
        if waiting is not None:
            waiting.cancel()

    watcher = asyncio.create_task(watch())
    try:
        while not over:
            waiting = asyncio.current_task()
            try:
                item = await anext(source)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if not over or not _ours(waiting):
                    raise
                return
            finally:
                waiting = None
            yield item
    finally:
        watcher.cancel()
        await source.aclose()


def _ours(task: asyncio.Task[object] | None) -> bool:
    """Take our own cancellation back; False when somebody else wants the task to end, too."""
    if sys.version_info < (3, 11) or task is None:
        return True
    return task.uncancel() == 0
