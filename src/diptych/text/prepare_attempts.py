"""Answers whose grammar does not enforce all that was asked for: told only when they pass their check."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from diptych.core.events import Event, Failed, Metrics, Started
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.text.prepare import Prepared
from diptych.text.prepare_check import INVALID
from diptych.text.stream import read

ATTEMPTS = 4
"""Answers that are made before the request fails."""
WARMTH = 0.5
"""Least temperature of another attempt: at 0 it would be the same answer again."""
_STEP = 1_000_003
Begin = Callable[[ChatSpec | CompletionSpec], AsyncGenerator[Event, None]]


async def answered(
    begin: Begin, prepared: Prepared, spec: ChatSpec | CompletionSpec, stop: asyncio.Event,
) -> AsyncGenerator[Event, None]:
    """The events of `text.stream.read`. An answer that only a check can tell to be valid comes in one piece, after it.

    Args:
        begin: starts a run; called again with another seed for an answer that did not pass.
        spec: `prepared.spec`, or that with a seed of its own.

    Ends with `Failed(code="invalid_output", status=422)` when no attempt passes: an invalid answer is never told.
    """
    if not prepared.unheld:
        async with contextlib.aclosing(read(begin(spec), spec, prepared.reader(), stop)) as told:
            async for event in told:
                yield event
        return
    spent: dict[str, float] = {}
    for attempt in range(ATTEMPTS):
        held: list[Event] = []
        async with contextlib.aclosing(read(begin(_again(spec, attempt)), spec, prepared.reader(), stop)) as told:
            async for event in told:
                if isinstance(event, Started):
                    if not attempt:
                        yield event
                elif isinstance(event, Metrics):
                    spent = _sum(spent, event.values)
                    held.append(Metrics(values={**spent, "attempts": attempt + 1.0}))
                else:
                    held.append(event)
        last = held[-1] if held else None
        if isinstance(last, Failed) and last.code == INVALID:
            if attempt + 1 < ATTEMPTS:
                continue
            yield Failed(
                message=f"{ATTEMPTS} answers were made, and none is valid; {', '.join(prepared.unheld)} cannot be "
                f"enforced while a model writes, only checked. The last one: {last.message}", status=422, code=INVALID)
            return
        for event in held:
            yield event
        return


def _again(spec: ChatSpec | CompletionSpec, attempt: int) -> ChatSpec | CompletionSpec:
    if not attempt:
        return spec
    sampling = spec.sampling
    seed = None if sampling.seed is None else (sampling.seed + attempt * _STEP) % 2**32
    return spec.model_copy(update={"sampling": sampling.model_copy(update={
        "seed": seed, "temperature": max(WARMTH, sampling.temperature)})})


def _sum(before: dict[str, float], values: dict[str, float]) -> dict[str, float]:
    """Tokens and time of all attempts; the prompt counts once."""
    summed = {name for name in values if name in ("completion_tokens", "reasoning_tokens") or name.endswith("seconds")}
    return {**values, **{name: before.get(name, 0.0) + values[name] for name in summed}}
