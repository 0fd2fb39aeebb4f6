"""The whole way of one run's events, from what an engine tells to what a client is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from diptych.core.events import Event, Failed, Finished, Metrics, Started, TokenDelta
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.text.reasoning import ReasoningSplitter
from diptych.text.repetition import RepetitionWatch


class Reader(Protocol):
    def read(self, event: Event) -> list[Event]: ...


async def read(
    events: AsyncGenerator[Event, None], spec: ChatSpec | CompletionSpec, reader: Reader, stop: asyncio.Event,
) -> AsyncGenerator[Event, None]:
    """`TokenDelta`, `ReasoningDelta`, `ToolCallDelta`, `Metrics`, then `Finished` or `Failed`; `Started` before all of
    them, unless the run failed at once.

    Args:
        events: of the dispatcher; closed when this ends.
        reader: made for this run by `Prepared.reader()`.
        stop: set when the answer goes round in circles; the run's last events are still waited for.
    """
    splitter = ReasoningSplitter() if isinstance(spec, ChatSpec) else None
    watch = RepetitionWatch() if spec.sampling.repetition_stop else None
    skip = isinstance(spec, CompletionSpec) and spec.echo  # the prompt is no answer, whatever it repeats
    begun = False
    async with contextlib.aclosing(events):
        async for event in events:
            if not begun and not isinstance(event, Failed):
                begun = True
                yield Started(attempt=1)
            if isinstance(event, TokenDelta):
                if stop.is_set():
                    continue
                if watch is not None and not skip and watch.feed(event.text):
                    stop.set()
                skip = False
            elif isinstance(event, Finished) and stop.is_set():
                event = Finished(reason="repetition")
            elif isinstance(event, Metrics) and splitter is not None:
                values = event.values
                tokens = min(float(splitter.tokens), values.get("completion_tokens", 0.0))
                event = Metrics(values={**values, "reasoning_tokens": tokens})
            for part in splitter.read(event) if splitter is not None else [event]:
                for told in reader.read(part):
                    yield told
