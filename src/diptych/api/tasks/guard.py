"""The guard: what is said to a model, and what it says, judged before anybody reads it. It fails closed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from diptych.api.services import Services
from diptych.api.tasks.data import text_card
from diptych.api.tasks.moderate import image_scores, text_scores
from diptych.core.cards import Card
from diptych.core.chat import ImagePart
from diptych.core.errors import DiptychError, Forbidden, InvalidRequest, Unavailable
from diptych.core.events import Event, Failed, Finished, Metrics, Started
from diptych.core.guard import CATEGORIES, Guard
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.text.guard import Held, halves, windows

Scores = dict[str, float]
CALLER = "(guard)"
"""No key has such a name: what a guard reads counts against nobody's limits, and waits behind none of them."""
BLOCKED = "content_filter"
TOO_LONG = "context_length_exceeded"
SHORT = 64
"""Characters that are not divided any further."""


class ContentBlocked(Forbidden):
    """A guard refuses what the user says. `scores`: of the categories that are over their limits."""

    code = BLOCKED

    def __init__(self, scores: Scores, param: str | None) -> None:
        told = ", ".join(f"{name} {score:.2f}" for name, score in sorted(scores.items(), key=lambda one: -one[1]))
        super().__init__(f"{param}: a guard refuses what is said: {told}", param=param)
        self.scores = scores

    def body(self) -> dict[str, Any]:
        made = super().body()
        made["error"]["guard"] = {"blocked": self.scores}
        return made


async def check_models(services: Services, guards: Sequence[Guard], own: Guard | None) -> None:
    """Raises Unavailable where the operator's guard (`own`) cannot judge, and for others NotFound or InvalidRequest."""
    for guard in guards:
        try:
            card = await text_card(services, guard.model)
            if card.format == "upstream" or "chat" not in card.tasks:
                raise InvalidRequest(f"model {card.id!r} cannot judge: that takes a chat model of this machine")
        except DiptychError as error:
            if guard is own:
                raise _failed(error) from None
            error.param = "guard.model"
            raise


async def check_input(
    services: Services, guards: Sequence[Guard], spec: ChatSpec | CompletionSpec, field: str,
) -> None:
    """Raises ContentBlocked for what users and tools say in `spec`; Unavailable where it cannot be judged. `field`:
    what the client calls it."""
    guards = [guard for guard in guards if guard.input]
    if not guards:
        return
    pictures: list[ImagePart] = []
    if isinstance(spec, ChatSpec):
        heard = [message for message in spec.messages if message.role in ("user", "tool")]
        texts = [message.text for message in heard]
        pictures = [picture for message in heard for picture in message.images]
    elif isinstance(spec.prompt, str):
        texts = [spec.prompt, spec.suffix or ""]
    else:
        raise InvalidRequest(f"{field}: a guard cannot judge token ids; send text", param=field)
    found = await judged(services, guards, texts, pictures, field)
    if found:
        raise ContentBlocked(found, field)


async def guarded(
    services: Services, guards: Sequence[Guard], events: AsyncGenerator[Event, None], stop: asyncio.Event,
) -> AsyncGenerator[Event, None]:
    """The events of one answer, each after it was judged. One that is blocked ends the answer with the reason
    `content_filter`, and is never told.

    Args:
        events: closed when this ends.
        stop: set when a piece is blocked; the counts are still waited for.
    """
    guards = [guard for guard in guards if guard.output]
    held, blocked = Held(), Scores()
    queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
    async with contextlib.aclosing(_ahead(events, queue)) as coming:
        async for event in coming:
            if isinstance(event, (Started, Failed)) or not guards:
                yield event
            elif blocked:
                if isinstance(event, Metrics):
                    yield event
                elif isinstance(event, Finished):
                    yield Finished(reason=BLOCKED, guard=blocked)
            else:
                held.take(event)
                if not held.due(more=not queue.empty()):
                    continue
                blocked = await judged(services, guards, held.texts())
                if not blocked:
                    for one in held.release():
                        yield one
                    continue
                stop.set()
                for one in held.release():
                    if isinstance(one, Metrics):
                        yield one
                if isinstance(event, Finished):
                    yield Finished(reason=BLOCKED, guard=blocked)


async def _ahead(
    source: AsyncGenerator[Event, None], queue: asyncio.Queue[Event | BaseException | None],
) -> AsyncGenerator[Event, None]:
    """The events of `source`, read without waiting for who judges them: the answer keeps no place on its model that a
    guard may be waiting for."""
    async def pump() -> None:
        try:
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    queue.put_nowait(event)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    task = asyncio.create_task(pump())
    try:
        while (event := await queue.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.aclose()  # a task that was cancelled before its first step never touched it


async def judged(
    services: Services, guards: Sequence[Guard], texts: Sequence[str], pictures: Sequence[ImagePart] = (),
    field: str = "messages",
) -> Scores:
    """Scores of the categories that are over the limit of any guard; empty: none is. Raises Unavailable where that
    cannot be said, InvalidRequest where pictures cannot be judged here."""
    seen = await image_scores(services, pictures, field) if pictures else []
    pieces = [piece for text in texts if text.strip() for piece in windows(text)]
    found: Scores = {}
    for guard in guards:
        try:
            card = await text_card(services, guard.model)
            scores = await _scores(services, card, pieces, tuple(guard.limits()))
        except DiptychError as error:
            raise _failed(error) from None
        for name, score in guard.blocked(_most([*scores, *seen])).items():
            found[name] = max(score, found.get(name, 0.0))
    return found


async def _scores(
    services: Services, card: Card, texts: Sequence[str], categories: tuple[str, ...],
) -> list[Scores]:
    """Of each text. What was judged lately is remembered: a conversation is sent again with every turn."""
    keys = {text: (card.id, card.fingerprint, categories, hashlib.sha256(text.encode()).digest()) for text in texts}
    known = {text: services.judged.get(key) for text, key in keys.items()}
    new = [text for text, values in known.items() if values is None]
    try:
        fresh, _ = await text_scores(services, card, new, CALLER, lambda index: "text", categories)
    except DiptychError as error:
        if error.code != TOO_LONG:
            raise
        fresh = [await _divided(services, card, text, categories) for text in new]
    for text, scores in zip(new, fresh, strict=True):
        values = tuple(scores[name] for name in categories)
        known[text] = values
        services.judged.keep(keys[text], values)
    return [dict(zip(categories, values, strict=True)) for values in known.values() if values is not None]


async def _divided(services: Services, card: Card, text: str, categories: tuple[str, ...]) -> Scores:
    """Of one that may be longer than the model's context."""
    try:
        found, _ = await text_scores(services, card, [text], CALLER, lambda index: "text", categories)
        return found[0]
    except DiptychError as error:
        if error.code != TOO_LONG or len(text) <= SHORT:
            raise
    return _most([await _divided(services, card, half, categories) for half in halves(text)])


def _most(scores: Sequence[Scores]) -> Scores:
    return {name: max((one.get(name, 0.0) for one in scores), default=0.0) for name in CATEGORIES}


def _failed(error: DiptychError) -> Unavailable:
    return Unavailable(f"the guard cannot judge, and nothing goes past it: {error.message}", code="guard_failed")
