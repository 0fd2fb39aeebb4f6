"""Runs on the text engine in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.core.cards import Card
from diptych.core.events import Data, Event, Failed, Finished, Metrics, TokenDelta
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import LiveSpec
from diptych.engines.base import Engine

CONTEXT = 512


class Run:
    """One submitted run and what has come of it."""

    def __init__(self, engine: Engine, spec: LiveSpec, id: str, watch: Callable[[Run], None]) -> None:
        self.id = id
        self.events: list[Event] = []
        self.ended = threading.Event()
        self._watch = watch
        self.engine = engine
        engine.submit(RunRequest(id=id, spec=spec), self._take)

    def _take(self, event: Event) -> None:
        assert not self.ended.is_set(), "an event after the last one"
        self.events.append(event)
        self._watch(self)
        if isinstance(event, (Finished, Failed)):
            self.ended.set()

    def wait(self) -> Run:
        assert self.ended.wait(120), "the run did not end"
        return self

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TokenDelta))

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def data(self) -> dict[str, Any]:
        return next(event.value for event in self.events if isinstance(event, Data))

    @property
    def metrics(self) -> dict[str, float]:
        return next(event.values for event in self.events if isinstance(event, Metrics))


class Text:
    """Runs specs on an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._count = 0

    def begin(self, spec: LiveSpec, watch: Callable[[Run], None] = lambda run: None) -> Run:
        self._count += 1
        return Run(self.engine, spec, f"run-{self._count}", watch)

    def run(self, spec: LiveSpec) -> Run:
        return self.begin(spec).wait()


def load_request(path: Path, **options: float | int | str | bool) -> LoadRequest:
    card = Card(id="starter-text", panel="text", family="gguf", format="gguf", path=str(path),
                bytes=path.stat().st_size if path.exists() else 0, context=8192)
    return LoadRequest(card=card, threads=1, options={"slots": 2, "context": CONTEXT, **options})
