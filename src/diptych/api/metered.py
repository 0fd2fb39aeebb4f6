"""The dispatcher as the routes see it: every piece of work is held against the limits of its caller's key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from diptych.api.limits import Limits, Meter, prompt_tokens
from diptych.core.errors import DiptychError
from diptych.core.events import Event, Failed
from diptych.core.jobs import Job, JobState
from diptych.core.keys import LOCAL, ApiKey
from diptych.core.specs import JobSpec
from diptych.schedule.dispatcher import Dispatcher


class MeteredDispatcher(Dispatcher):
    """Callers without a key of limits are served as by the dispatcher itself.

    Pictures are taken from the limit when a job is accepted, and given back when it is cancelled before it began.
    Tokens are reserved before the run (the prompt and `max_tokens`) and counted after it.
    """

    def __init__(self, limits: Limits, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.limits = limits

    async def submit(self, spec: JobSpec, *, caller: str, **more: Any) -> Job:
        """Raises what `Dispatcher.submit` does, and RateLimited."""
        key = self.limits.key(caller)
        if key is None:
            return await super().submit(spec, caller=caller, **more)
        async with self.limits.queueing(key):
            await self.limits.take(key, "pictures", spec.count)
            try:
                return await super().submit(spec, caller=caller, **more)
            except BaseException:
                self.limits.soon(self.limits.charge(key, "pictures", -spec.count))
                raise

    async def cancel(self, id: str) -> Job:
        job = await super().cancel(id)
        key = self.limits.key(job.caller)
        if key is not None and job.state is JobState.CANCELLED and job.attempts == 0:
            await self.limits.charge(key, "pictures", -job.spec.count)
        return job

    async def stream(self, spec: Any, *, caller: str = LOCAL, **more: Any) -> AsyncGenerator[Event, None]:
        """Raises what `Dispatcher.stream` does, and RateLimited."""
        key = self.limits.key(caller)
        async with contextlib.aclosing(super().stream(spec, caller=caller, **more)) as events:
            if key is None:
                async for event in events:
                    yield event
                return
            async with self.limits.waiting(key), contextlib.aclosing(self._metered(events, spec, key)) as metered:
                async for event in metered:
                    yield event

    async def _metered(
        self, events: AsyncGenerator[Event, None], spec: Any, key: ApiKey,
    ) -> AsyncGenerator[Event, None]:
        prompt = prompt_tokens(spec)
        reserved = self._reservation(spec, key, prompt)
        await self.limits.take(key, "tokens", reserved)
        meter, settled = Meter(prompt), False
        try:
            async for event in events:
                if isinstance(event, Failed):  # before it is told: another attempt may follow at once
                    settled = True
                    await self.limits.charge(key, "tokens", meter.used - reserved)
                else:
                    meter.see(event)
                yield event
        except DiptychError:
            if not settled:
                settled = True
                await self.limits.charge(key, "tokens", meter.used - reserved)
            raise
        finally:
            if not settled:
                self.limits.soon(self.limits.charge(key, "tokens", meter.used - reserved))

    def _reservation(self, spec: Any, key: ApiKey, prompt: int) -> int:
        """Tokens that the answer may take. One without `max_tokens` may fill the model's context: so much of the
        limit as there can be is held for it."""
        sampling = getattr(spec, "sampling", None)
        if sampling is None:  # embeddings, scores: nothing is written
            return prompt
        if sampling.max_tokens is not None:
            return int(prompt + sampling.max_tokens)
        context = self._settings.text_context or 8192
        return max(prompt, min(context, key.tokens_per_minute or context))
