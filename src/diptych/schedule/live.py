"""Answers that are given at once and keep no record: a place on the text runner, and its events."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator

from diptych.core.cards import Card
from diptych.core.events import Data, Event, Failed, TokenDelta
from diptych.core.protocol import RunRequest
from diptych.core.specs import LiveSpec
from diptych.schedule.pool import RunnerPool
from diptych.settings import Settings


async def answer(
    pool: RunnerPool, settings: Settings, card: Card, spec: LiveSpec, caller: str,
    stop: asyncio.Event | None,
) -> AsyncGenerator[Event, None]:
    """The events of one answer; see `Dispatcher.stream`."""
    begun = False
    for last in (False, True):
        held = await pool.acquire(card, caller, settings.text_slots)
        try:
            assert held.runner is not None
            request = RunRequest(id=secrets.token_hex(16), spec=spec, timeout_seconds=settings.job_timeout_seconds)
            async with contextlib.aclosing(held.runner.client.run(request)) as events:
                async for event in events:
                    if isinstance(event, Failed) and event.retryable and not begun and not last:
                        break
                    begun = begun or isinstance(event, TokenDelta | Data)
                    yield event
                    if stop is not None and stop.is_set():
                        await held.runner.client.cancel(request.id)
                        stop = None
                else:
                    return
        finally:
            pool.release(held, caller)
