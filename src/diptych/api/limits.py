"""Limits of each key: tokens per minute, pictures per hour, and how much may wait at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import DiptychError, RateLimited
from diptych.core.events import Data, Event, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.keys import ApiKey
from diptych.store.keys import KeyStore, Kind

BYTES_PER_TOKEN = 3
"""What a prompt is reserved as, before its tokens are counted."""
IMAGE_TOKENS = 1024
PROMPT_FIELDS = {"messages", "tools", "prompt", "suffix", "inputs", "query", "documents", "options", "captions"}
"""Fields of live specs that a model reads."""
QUEUE_RETRY_SECONDS = 10.0
"""How long a waiting caller is told to wait when too much of its own waits; nobody knows when that will be done."""

log = logging.getLogger("diptych.limits")


@dataclass(frozen=True)
class Seen:
    """What was left of a limit at a moment (`time.monotonic`)."""

    left: float
    at: float


class Limits:
    """What each key has left. The figures are in the database: they outlast the server, and servers share them.

    Every limit is a bucket: full at first, refilled evenly, never above the limit.

    Args:
        key: the key of a caller, None for one without limits.
    """

    def __init__(self, store: KeyStore, key: Callable[[str], ApiKey | None]) -> None:
        self._store, self.key = store, key
        self._seen: dict[tuple[str, Kind], Seen] = {}
        self._live: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._settling: set[asyncio.Task[None]] = set()

    async def take(self, key: ApiKey, kind: Kind, amount: float) -> None:
        """Take `amount` tokens or pictures. Raises RateLimited, which says when it can pass."""
        limit, seconds = limit_of(key, kind)
        if limit is None:
            return
        if amount > limit:
            raise RateLimited(
                f"{told(amount)} {kind} are asked for at once, but key {key.name!r} has {limit} per {_PERIOD[kind]}: "
                f"ask for fewer{' (max_tokens)' if kind == 'tokens' else ''}",
                retry_after=None, param="max_tokens" if kind == "tokens" else "count", code=f"over_{kind}_limit")
        passed, left = await asyncio.to_thread(self._store.take, key, kind, amount, limit, seconds)
        self._see(key, kind, left)
        if not passed:
            wait = (amount - left) * seconds / limit
            raise RateLimited(
                f"key {key.name!r} has {told(left)} of its {limit} {kind} per {_PERIOD[kind]} left, and "
                f"{told(amount)} are asked for; that will do in {math.ceil(wait)} s", retry_after=wait)

    async def charge(self, key: ApiKey, kind: Kind, amount: float) -> None:
        """Take more, whether or not so much is left, or give back what is negative."""
        limit, seconds = limit_of(key, kind)
        if limit is not None and amount:
            self._see(key, kind, await asyncio.to_thread(self._store.charge, key, kind, amount, limit, seconds))

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it without anybody waiting, also when the one who asked has gone."""
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settled)

    async def close(self) -> None:
        """Wait for what is still to be written down."""
        while self._settling:
            await asyncio.wait(list(self._settling))

    def headers(self, key: ApiKey) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI has them, from what was last seen; for pictures in the same manner."""
        found: dict[str, str] = {}
        kinds: tuple[Kind, ...] = ("tokens", "pictures")
        for kind in kinds:
            limit, seconds = limit_of(key, kind)
            if limit is None:
                continue
            seen = self._seen.get((key.id, kind), Seen(limit, time.monotonic()))
            left = min(float(limit), seen.left + (time.monotonic() - seen.at) * limit / seconds)
            found |= {
                f"x-ratelimit-limit-{kind}": str(limit), f"x-ratelimit-remaining-{kind}": str(max(0, int(left))),
                f"x-ratelimit-reset-{kind}": f"{(limit - left) * seconds / limit:.3f}s"}
        return found

    @contextlib.asynccontextmanager
    async def waiting(self, key: ApiKey) -> AsyncIterator[None]:
        """One live request of this key. Raises RateLimited when `max_queued` of them are open."""
        if key.max_queued is not None and self._live[key.id] >= key.max_queued:
            raise RateLimited(
                f"key {key.name!r} has {self._live[key.id]} requests open, at most {key.max_queued} may be",
                retry_after=1.0, code="queue_limit")
        self._live[key.id] += 1
        try:
            yield
        finally:
            self._live[key.id] -= 1

    @contextlib.asynccontextmanager
    async def queueing(self, key: ApiKey) -> AsyncIterator[None]:
        """Held while a job of this key is put into the queue. Raises RateLimited when `max_queued` of them wait."""
        if key.max_queued is None:
            yield
            return
        async with self._locks.setdefault(key.id, asyncio.Lock()):
            queued = await asyncio.to_thread(self._store.queued, key.name)
            if queued >= key.max_queued:
                raise RateLimited(
                    f"key {key.name!r} has {queued} jobs that wait, at most {key.max_queued} may",
                    retry_after=QUEUE_RETRY_SECONDS, code="queue_limit")
            yield

    def _see(self, key: ApiKey, kind: Kind, left: float) -> None:
        self._seen[key.id, kind] = Seen(left, time.monotonic())

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("what was used could not be written down: %s",
                      error.message if isinstance(error, DiptychError) else type(error).__name__)


_PERIOD = {"tokens": "minute", "pictures": "hour"}


def limit_of(key: ApiKey, kind: Kind) -> tuple[int | None, float]:
    """The limit, and the seconds that it is for."""
    return (key.tokens_per_minute, 60.0) if kind == "tokens" else (key.pictures_per_hour, 3600.0)


def told(amount: float) -> str:
    return str(math.floor(amount)) if amount < 0 or amount == int(amount) else f"{amount:.1f}"


def prompt_tokens(spec: Any) -> int:
    """About how many tokens the prompt of a live spec has. Pictures in it count as `IMAGE_TOKENS` each."""
    size, images = 0, 0
    waiting: list[Any] = [spec.model_dump(include=PROMPT_FIELDS)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("type") == "image":
                images += 1
            else:
                waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif isinstance(value, str):
            size += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, int) and not isinstance(value, bool):
            size += BYTES_PER_TOKEN  # a token id
    return size // BYTES_PER_TOKEN + 1 + images * IMAGE_TOKENS


class Meter:
    """Counts the tokens of one answer from its events."""

    def __init__(self, prompt: int) -> None:
        self._prompt, self._deltas = prompt, 0
        self._total: int | None = None
        self.begun = False

    def see(self, event: Event) -> None:
        self.begun = True
        if isinstance(event, (TokenDelta, ReasoningDelta, ToolCallDelta)):
            self._deltas += 1
        elif isinstance(event, Metrics) and "completion_tokens" in event.values:
            self._total = int(event.values.get("prompt_tokens", self._prompt) + event.values["completion_tokens"])
        elif isinstance(event, Data) and isinstance(event.value.get("tokens"), int):
            self._total = event.value["tokens"]

    @property
    def used(self) -> int:
        """What the engine counted. Of an answer that was broken off: the prompt as it was reserved, and what came;
        nothing where the run did not begin."""
        if self._total is not None:
            return self._total
        return self._prompt + self._deltas if self.begun else 0
