"""Answers that only a check can tell to be valid, from a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from diptych.core.cards import Card
from diptych.core.chat import Message, OutputFormat
from diptych.core.events import Event, Failed, Finished, Metrics, Started, TokenDelta
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling
from diptych.text.prepare import Prepared, prepare
from diptych.text.prepare_attempts import ATTEMPTS, answered

CARD = Card(id="m", panel="text", family="gguf", format="gguf", path="m", bytes=1)
COLOURS = {"type": "array", "items": {"enum": ["red", "blue"]}, "uniqueItems": True}


class Engine:
    """Says one text after the other, in pieces of three characters."""

    def __init__(self, *texts: str, reason: str = "stop") -> None:
        self._texts, self._reason = list(texts), reason
        self.specs: list[ChatSpec | CompletionSpec] = []
        self.ended = 0

    async def begin(self, spec: ChatSpec | CompletionSpec) -> AsyncGenerator[Event, None]:
        self.specs.append(spec)
        text = self._texts.pop(0)
        try:
            for at in range(0, len(text), 3):
                yield TokenDelta(text=text[at:at + 3])
            yield Metrics(values={"prompt_tokens": 7.0, "completion_tokens": 5.0, "seconds": 1.0})
            yield Finished(reason=self._reason)
        finally:
            self.ended += 1


def told(engine: Engine, schema: Any, **sampling: Any) -> list[Event]:
    spec = ChatSpec(model="m", messages=(Message(role="user", content="?"),), sampling=Sampling(**sampling),
                    format=OutputFormat(kind="json_schema", value=schema))
    made = prepare(spec, CARD)

    async def gather(made: Prepared) -> list[Event]:
        def begin(one: ChatSpec | CompletionSpec) -> AsyncGenerator[Event, None]:
            return engine.begin(one)

        return [event async for event in answered(begin, made, made.spec, asyncio.Event())]

    return asyncio.run(gather(made))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


def test_an_exact_form_is_streamed() -> None:
    events = told(Engine('{"a": 1}'), {"type": "object"})
    assert sum(isinstance(event, TokenDelta) for event in events) == 3
    assert events[0] == Started(attempt=1) and events[-1] == Finished()


def test_another_attempt_has_another_seed_and_some_warmth() -> None:
    engine = Engine('["red", "red"]', '["blue", "blue"]', '["red", "blue"]')
    events = told(engine, COLOURS, seed=5, temperature=0.0)
    assert text_of(events) == '["red", "blue"]' and events[-1] == Finished() and engine.ended == 3
    assert [type(event) for event in events].count(Started) == 1
    assert len({spec.sampling.seed for spec in engine.specs}) == 3
    assert [spec.sampling.temperature for spec in engine.specs] == [0.0, 0.5, 0.5]
    metrics = next(event.values for event in events if isinstance(event, Metrics))
    assert metrics["completion_tokens"] == 15 and metrics["prompt_tokens"] == 7 and metrics["attempts"] == 3


def test_no_invalid_answer_is_told() -> None:
    engine = Engine(*['["red", "red"]'] * ATTEMPTS)
    events = told(engine, COLOURS)
    assert not text_of(events)
    last = events[-1]
    assert isinstance(last, Failed) and last.status == 422 and last.code == "invalid_output"
    assert "uniqueItems" in last.message and len(engine.specs) == ATTEMPTS


def test_an_answer_that_was_cut_off_is_told_with_its_reason() -> None:
    engine = Engine('["red", "r', reason="length")
    events = told(engine, COLOURS)
    assert text_of(events) == '["red", "r' and events[-1] == Finished(reason="length") and len(engine.specs) == 1


def test_a_faulty_engine_is_found_out() -> None:
    """One that does not hold the grammar: the end says so, though the text is on its way already."""
    last = told(Engine("not json"), {"type": "object"})[-1]
    assert isinstance(last, Failed) and last.code == "invalid_output"
