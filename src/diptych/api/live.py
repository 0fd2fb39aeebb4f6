"""Runs of text: prepared, read, and several at once, for every protocol that answers with text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from diptych.api.errors import failure
from diptych.api.services import Services
from diptych.api.tasks.guard import check_input, check_models, guarded
from diptych.core.cards import Card
from diptych.core.errors import DiptychError, InvalidRequest, Unavailable
from diptych.core.events import Event, Failed, Finished, Started
from diptych.core.guard import Guard
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.library import Library
from diptych.routing.faults import unfit
from diptych.routing.router import Course
from diptych.routing.trail import this_trail
from diptych.text.prepare import Prepared, prepare
from diptych.text.prepare_attempts import answered
from diptych.text.repair import repaired

TextSpec = ChatSpec | CompletionSpec
Told = tuple[int, Event]
"""Index of the answer, and what is told about it."""
WAITING = 64
"""Events of runs at once that may wait for their client."""


@dataclass(frozen=True)
class Ready:
    """A spec that passed all that can be known before its model is asked; `field` is what the client calls what is
    said in it, to the `guards`. With a `course` there are several `targets`; what else is here is the first one's."""

    prepared: Prepared
    card: Card
    guards: tuple[Guard, ...] = ()
    field: str = "messages"
    course: Course | None = None
    targets: tuple[Ready, ...] = ()

    @property
    def model(self) -> str:
        """Who answers: of a route, that is known as soon as there is a first event."""
        return self.card.id if self.course is None else self.course.answered or self.card.id


async def ready(
    services: Services, spec: TextSpec, guards: tuple[Guard, ...] = (), field: str | None = None, *,
    models: Sequence[str] = (), whole: bool = False,
) -> Ready:
    """`models` are asked after the spec's own, in their order; `whole`: nothing is told to the client before all is
    there. `guards` are those that the client asks for; the operator's holds for every spec.

    Raises:
        NotFound: no such model. InvalidRequest: it cannot do this. Unavailable: the operator's guard cannot judge.
    """
    course = services.router.course(spec.model, models, this_trail(), whole=whole)
    work = await asyncio.to_thread(_ready, services.library, spec) if course is None else \
        await asyncio.to_thread(_routed, services.library, spec, course)
    own = services.settings.guard
    guards = guards if own is None else (own, *guards)
    if not guards:
        return work
    await check_models(services, guards, own)
    return replace(work, guards=guards, field=field or ("messages" if isinstance(spec, ChatSpec) else "prompt"))


def _ready(library: Library, spec: TextSpec) -> Ready:
    card = library.get(spec.model)
    if card.panel != "text":
        raise InvalidRequest(f"model {card.id!r} makes pictures, not text", param="model")
    if isinstance(spec, ChatSpec):
        _check_pictures(spec, card)
        messages = repaired(spec.messages, card)
        if messages is not spec.messages:
            spec = spec.model_copy(update={"messages": messages})
    return Ready(prepare(spec, card), card)


def _routed(library: Library, spec: TextSpec, course: Course) -> Ready:
    """For each target of a route. Those that cannot do it are left out; raises the first one's error where none can."""
    works, errors = list[Ready](), list[DiptychError]()
    for target in course.targets:
        try:
            works.append(_ready(library, spec.model_copy(update={"model": target.model})))
        except DiptychError as error:
            course.drop(target.model, unfit(error))
            errors.append(error)
    if not works:
        raise errors[0]
    return replace(works[0], course=course, targets=tuple(works))


def _check_pictures(spec: ChatSpec, card: Card) -> None:
    for index, message in enumerate(spec.messages):
        if message.images and not card.vision:
            where = f"messages[{index}].content"
            raise InvalidRequest(f"{where}: model {card.id!r} cannot see pictures (it has no mmproj file)",
                                 param=where, code="no_vision")


async def run(services: Services, work: Ready, caller: str, seed: int | None) -> AsyncGenerator[Event, None]:
    """One answer; see `text.stream.read` for its events. Closing it ends the run. Raises ContentBlocked for what
    a guard refuses."""
    spec, stop = work.prepared.spec, asyncio.Event()

    def begin(model: str) -> AsyncGenerator[Event, None]:
        target = next(target for target in work.targets if target.card.id == model)
        return _run(services, target, caller, seed, stop)

    await check_input(services, work.guards, spec, work.field)
    if work.course is None:
        this_trail().says(work.card.id)
        told = _run(services, work, caller, seed, stop)
    else:
        told = services.router.stream(work.course, begin, stop)
    if any(guard.output for guard in work.guards):
        told = guarded(services, work.guards, told, stop)
    async with contextlib.aclosing(told) as events:
        async for event in events:
            yield event


async def _run(
    services: Services, work: Ready, caller: str, seed: int | None, stop: asyncio.Event,
) -> AsyncGenerator[Event, None]:
    """One answer of one model."""
    spec = work.prepared.spec
    if seed is not None:
        spec = spec.model_copy(update={"sampling": spec.sampling.model_copy(update={"seed": seed})})

    def begin(one: TextSpec) -> AsyncGenerator[Event, None]:
        return services.dispatcher.stream(one, caller=caller, stop=stop)

    with services.router.using(work.card.id):
        async with contextlib.aclosing(answered(begin, work.prepared, spec, stop)) as told:
            async for event in told:
                yield event


async def runs(services: Services, works: list[Ready], count: int, caller: str) -> AsyncGenerator[Told, None]:
    """`count` answers to each of `works`, as they come; answer `i` to work `w` has the index `w * count + i`, and the
    seed of its spec plus `i`. Failures are raised; what ends an answer well is its `Finished`."""
    sources = [run(services, work, caller, _seed(work, index)) for work in works for index in range(count)]
    async with contextlib.aclosing(_one(sources[0]) if len(sources) == 1 else _together(sources)) as told:
        async for index, event in told:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Finished) and event.reason == "cancelled":
                raise Unavailable("the answer was broken off: its model was unloaded, or the server ends")
            yield index, event


async def first_of(events: AsyncGenerator[Told, None]) -> Told:
    """The first event: by then it is known whether there will be an answer. Closes `events` when there will not."""
    try:
        told = await anext(events, None)
        if told is None:
            raise ended_early()
        assert isinstance(told[1], Started)
        return told
    except BaseException:
        await events.aclose()
        raise


def ended_early() -> DiptychError:
    return Unavailable("the answer ended early")


def _seed(work: Ready, index: int) -> int | None:
    seed = work.prepared.spec.sampling.seed
    return None if seed is None else (seed + index) % 2**32


async def _one(source: AsyncGenerator[Event, None]) -> AsyncGenerator[Told, None]:
    async with contextlib.aclosing(source) as events:
        async for event in events:
            yield 0, event


async def _together(sources: list[AsyncGenerator[Event, None]]) -> AsyncGenerator[Told, None]:
    """The events of all, in the order of their coming. The first that raises ends the others."""
    told: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue(WAITING)

    async def pump(index: int, source: AsyncGenerator[Event, None]) -> None:
        try:
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    await told.put((index, event))
            await told.put((index, None))
        except Exception as error:
            await told.put((index, error))

    tasks = [asyncio.create_task(pump(index, source)) for index, source in enumerate(sources)]
    try:
        left = len(tasks)
        while left:
            index, event = await told.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                left -= 1
            else:
                yield index, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A task that was cancelled before its first step never touched its source.
        await asyncio.gather(*(source.aclose() for source in sources), return_exceptions=True)
