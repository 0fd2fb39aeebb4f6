"""Text answers in OpenAI's shape, whole or streamed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.live import Ready, Told, ended_early, first_of, ready, runs
from diptych.api.openai.answers import Head, Kind, Said, usage
from diptych.api.services import Services
from diptych.api.streams import DONE, EventStream, attended, sse
from diptych.api.tasks.documents import cited
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.events import Finished, ToolCallDelta
from diptych.core.guard import Guard
from diptych.core.specs import ChatSpec, CompletionSpec
from diptych.text.grounding.fitting import Attempt

_PREFIX = {"chat": "chatcmpl-", "completion": "cmpl-"}
MAX_ANSWERS = 256
"""To all prompts of one request together."""
WHOLE_CALLS = "mistral-client"
"""Clients of Mistral's own take a streamed tool call whole, in one piece: so their server sends it."""


@dataclass(frozen=True)
class Asked:
    """What a client wants to have told, and how. `count` answers are made for each prompt, the best `shown` told."""

    count: int = 1
    shown: int = 1
    stream: bool = False
    with_usage: bool = False
    old_calls: bool = False
    whole_calls: bool = False
    stop_shown: bool = False
    logprobs: bool = True
    grounded: Attempt | None = None
    shape: Kind | None = None
    """That of the answer, where it is another than the spec's."""
    models: tuple[str, ...] = ()
    """Those that are asked where the spec's own does not answer."""


async def answer(
    request: Request, services: Services, specs: Sequence[ChatSpec | CompletionSpec], caller: str, asked: Asked,
    guards: tuple[Guard, ...] = (),
) -> Response:
    """The answers to `specs`; the runs end when the client goes.

    Raises:
        DiptychError: what went wrong before the first piece of a streamed answer, or anywhere in a whole one.
    """
    if len(specs) * asked.count > MAX_ANSWERS:
        raise InvalidRequest(
            f"n is {asked.shown}: with best_of and {len(specs)} prompts these are {len(specs) * asked.count} answers; "
            f"at most {MAX_ANSWERS} are made at once", param="n")
    works = [await ready(services, spec, guards, models=asked.models, whole=not asked.stream) for spec in specs]
    events = runs(services, works, asked.count, caller)
    if asked.grounded is not None:
        events = cited(events, asked.grounded)
    made = _Answer(asked.shape or specs[0].kind, works, events, asked)
    if not asked.stream:
        return JSONResponse(await attended(request, made.whole()))
    first = await attended(request, first_of(events))
    return EventStream(made.chunks(first))


class _Answer:
    def __init__(self, kind: Kind, works: list[Ready], events: AsyncGenerator[Told, None], asked: Asked) -> None:
        self._events, self._asked, self._work = events, asked, works[0]
        self._head = Head(kind, _PREFIX[kind] + secrets.token_hex(12), int(time.time()), works[0].card.id,
                          asked.old_calls, asked.stop_shown)
        self._said = [Said() for _ in range(len(works) * asked.count)]
        self._lengths = [0] * len(self._said)

    async def whole(self) -> dict[str, Any]:
        async with contextlib.aclosing(self._events):
            async for index, event in self._events:
                self._said[index].take(event)
        if not all(said.finished for said in self._said):
            raise ended_early()
        self._head = replace(self._head, model=self._work.model)
        told: list[Said] = []
        for start in range(0, len(self._said), self._asked.count):
            group = self._said[start:start + self._asked.count]
            if self._asked.shown < self._asked.count:
                group = sorted(group, key=lambda said: said.likelihood, reverse=True)
            told += group[:self._asked.shown]
        if not self._asked.logprobs:  # they were for the choice of the best only
            for said in told:
                said.logprobs.clear()
        choices = [self._head.choice(index, said) for index, said in enumerate(told)]
        return {**self._head.whole(choices, self._usage()), **self._documents()}

    async def chunks(self, first: Told) -> AsyncGenerator[str, None]:
        """Server-sent events. A failure half-way is an event with an `error`, and no `[DONE]` follows."""
        self._head = replace(self._head, model=self._work.model)
        more = {"usage": None} if self._asked.with_usage else {}
        try:
            async with contextlib.aclosing(self._events):
                if self._head.kind == "chat":
                    for index in range(len(self._said)):
                        chunk = self._head.chunk(index, {"role": "assistant", "content": ""})
                        yield sse({**chunk, **more, **self._documents()})
                left = len(self._said)
                async for index, event in self._events:
                    for chunk in self._told(index, event):
                        yield sse({**chunk, **more})
                    left -= isinstance(event, Finished)
                if left:
                    raise ended_early()
                if self._asked.with_usage:
                    yield sse(self._head.usage_chunk(self._usage()))
                yield DONE
        except DiptychError as error:
            yield sse(error.body())

    def _told(self, index: int, event: Any) -> list[dict[str, Any]]:
        """The chunks of one event."""
        if self._asked.whole_calls and isinstance(event, ToolCallDelta):
            self._said[index].take(event)
            return []
        if isinstance(event, Finished):
            return self._ending(index, event)
        made = self._head.delta(event, self._lengths[index])
        if made is None:
            self._said[index].take(event)  # the counts
            return []
        self._lengths[index] += len(getattr(event, "text", ""))
        delta, logprobs = made
        return [self._head.chunk(index, delta, logprobs)] if delta else []

    def _ending(self, index: int, event: Finished) -> list[dict[str, Any]]:
        self._said[index].take(event)
        found = []
        for number, call in enumerate(self._said[index].calls):
            one = ToolCallDelta(index=number, id=call["id"], name=call["name"], arguments=call["arguments"])
            made = self._head.delta(one, 0)
            assert made is not None
            found.append(self._head.chunk(index, made[0]))
        stop = self._head.stop_text(event)
        if stop:
            found.append(self._head.chunk(index, {"content": stop} if self._head.kind == "chat" else stop))
        last: dict[str, Any] | str = {} if self._head.kind == "chat" else ""
        return [*found, self._head.chunk(index, last, ending=self._head.ending(event))]

    def _documents(self) -> dict[str, Any]:
        return {} if self._asked.grounded is None else self._asked.grounded.selection.told()

    def _usage(self) -> dict[str, Any]:
        metrics = [said.metrics for said in self._said]
        return usage(metrics[::self._asked.count], metrics)
