"""Work that is answered with one value, run for a route."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from diptych.api.errors import failure
from diptych.api.services import Services
from diptych.core.cards import Card
from diptych.core.errors import DiptychError, InvalidRequest, NotFound, Unavailable
from diptych.core.events import Data, Failed, Metrics
from diptych.core.specs import EmbedSpec, RerankSpec, ScoreSpec
from diptych.routing.trail import this_trail

Result = TypeVar("Result")
Measurement = EmbedSpec | RerankSpec | ScoreSpec


async def text_card(services: Services, model: str) -> Card:
    """Raises NotFound; InvalidRequest for a model of pictures, and for a route: `by_target` chooses one of its."""
    try:
        card = await asyncio.to_thread(services.library.get, model)
    except NotFound:
        if model not in services.router.routes:
            raise
        raise InvalidRequest(f"model {model!r} is a route; what is made here belongs to one model: name that",
                             param="model", code="route_not_allowed") from None
    if card.panel != "text":
        raise InvalidRequest(f"model {card.id!r} makes pictures, not text", param="model")
    return card


async def by_target(services: Services, model: str, work: Callable[[str], Awaitable[Result]]) -> Result:
    """What `work` gives for `model`; of a route, for the first target that it can be done with, all of it by that one:
    vectors and scores of different models cannot be compared.

    Raises:
        DiptychError: what it failed with.
    """
    course = services.router.course(model, (), this_trail())
    if course is not None:
        return await services.router.value(course, work)
    found = await work(model)
    this_trail().says(model)
    return found


async def measured(
    services: Services, spec: Measurement, caller: str, names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The value of the one `Data` event of `spec`: `vectors`, `scores` or `logprobs`, and `tokens`.

    Args:
        names: what the client calls a field that the engine may name in a refusal.

    Raises:
        DiptychError: what the run failed with.
    """
    value: dict[str, Any] | None = None
    tokens = 0
    try:
        with services.router.using(spec.model):
            async with contextlib.aclosing(services.dispatcher.stream(spec, caller=caller)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        raise failure(event)
                    if isinstance(event, Data):
                        value = event.value
                    elif isinstance(event, Metrics):
                        tokens = int(event.values.get("prompt_tokens", 0))
    except DiptychError as error:
        told = renamed(error.param, names or {})
        if told != error.param and error.param and error.message.startswith(f"{error.param}:"):
            error.message = f"{told}{error.message[len(error.param):]}"
        error.param = told
        raise
    if value is None:
        raise Unavailable("the work was broken off: its model was unloaded, or the server ends")
    return {"tokens": tokens, **value}


def renamed(param: str | None, names: Mapping[str, str]) -> str | None:
    """`param` with its first name as the client knows it: `messages[0]` is one of `messages`."""
    if param is None:
        return None
    first = param.partition("[")[0].partition(".")[0]
    if first not in names:
        return param
    return names[first] if names[first] != first else param


async def all_measured(
    services: Services, specs: Sequence[Measurement], caller: str,
    names: Callable[[int], Mapping[str, str]] = lambda index: {},
) -> list[dict[str, Any]]:
    """`measured` of each, some at once: as many as the model has slots and the caller may have open. The first that
    fails ends the others. `names`: what the client calls the fields of the spec with this index."""
    key = services.keys.of_caller(caller)
    room = services.settings.text_slots
    if key is not None and key.max_queued is not None:
        room = max(1, min(room, key.max_queued))
    waiting = iter(enumerate(specs))
    found: list[dict[str, Any]] = [{}] * len(specs)

    async def work() -> None:
        for index, spec in waiting:
            found[index] = await measured(services, spec, caller, names(index))

    tasks = [asyncio.create_task(work()) for _ in range(min(room, len(specs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found
