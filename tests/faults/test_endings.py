"""A stream that is cut by an event; text that is handed over in pieces that are worth their way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator

import pytest

from diptych.core.endings import until_set
from diptych.core.events import Finished, Metrics, TokenDelta
from diptych.engines.mailbox import TEXT_SECONDS, Mailbox


class Source:
    """Counts to `numbers`, then waits for ever where `hangs`; knows whether it was closed."""

    def __init__(self, numbers: int, hangs: bool = True) -> None:
        self._numbers, self._hangs, self.closed = numbers, hangs, False

    async def __call__(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._numbers):
                await asyncio.sleep(0)
                yield number
            if self._hangs:
                await asyncio.sleep(3600)
        finally:
            self.closed = True


def test_whole_stream_without_the_event() -> None:
    async def main() -> None:
        source = Source(3, hangs=False)
        assert [number async for number in until_set(source(), asyncio.Event())] == [0, 1, 2]
        assert source.closed

    asyncio.run(main())


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_event_ends_a_stream_that_waits(grace: float) -> None:
    async def main() -> None:
        source, event = Source(3), asyncio.Event()
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.05, event.set)
        assert [number async for number in until_set(source(), event, grace)] == [0, 1, 2]
        assert source.closed
        assert grace <= time.monotonic() - began < 5
        await asyncio.sleep(0)  # the cancellation was not meant for this task

    asyncio.run(main())


def test_cancellation_from_outside_stays_one() -> None:
    async def main() -> None:
        source, event = Source(1), asyncio.Event()

        async def read() -> None:
            async for _ in until_set(source(), event):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.closed

    asyncio.run(main())


def test_closing_it_closes_the_source() -> None:
    async def main() -> None:
        source = Source(3)
        stream = until_set(source(), asyncio.Event())
        assert await anext(stream) == 0
        await stream.aclose()
        assert source.closed

    asyncio.run(main())


def test_tokens_come_in_pieces_the_first_and_the_end_at_once() -> None:
    async def main() -> None:
        box = Mailbox(asyncio.get_running_loop())
        took: list[tuple[float, list[object]]] = []

        async def read() -> None:
            while not (took and isinstance(took[-1][1][-1], Finished)):
                events = await box.take()
                took.append((time.monotonic(), list(events)))

        reader = asyncio.create_task(read())
        began = time.monotonic()
        box.put(TokenDelta(text="0 "))
        await asyncio.sleep(0.004)
        for number in range(1, 30):
            box.put(TokenDelta(text=f"{number} "))
            await asyncio.sleep(0.002)
        box.put(Metrics(values={"seconds": 1.0}))
        box.put(Finished())
        ended = time.monotonic()
        await reader
        assert took[0][1] == [TokenDelta(text="0 ")]
        assert took[0][0] - began < TEXT_SECONDS
        text = "".join(event.text for _, events in took for event in events if isinstance(event, TokenDelta))
        assert text.split() == [str(number) for number in range(30)]
        assert len(took) < 20  # fewer than tokens
        between = [later[0] - earlier[0] for earlier, later in itertools.pairwise(took[:-1])]
        assert min(between) > TEXT_SECONDS / 2
        assert took[-1][0] - ended < TEXT_SECONDS
        assert took[-1][1][-2:] == [Metrics(values={"seconds": 1.0}), Finished()]

    asyncio.run(main())
