"""Live answers: counted, and ended with the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from diptych.api.observe.lifecycle import Lifecycle, until_ending
from diptych.api.observe.metrics import Metrics
from diptych.core.events import Event, Failed, Finished, TokenDelta
from diptych.core.events import Metrics as Measured
from diptych.schedule.dispatcher import Dispatcher

PANEL = "text"


class WatchedDispatcher(Dispatcher):
    """A dispatcher whose live answers are counted. Call `watch` before the first of them."""

    _metrics: Metrics
    _lifecycle: Lifecycle

    def watch(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._metrics, self._lifecycle = metrics, lifecycle

    async def stream(self, spec: Any, **options: Any) -> AsyncGenerator[Event, None]:
        """As `Dispatcher.stream`; when the server ends first, the last event is a `Failed` that says so."""
        answer = _Answer(self._metrics, spec.model)
        self._lifecycle.answers += 1
        self._metrics.answers_running.inc()
        try:
            source = until_ending(super().stream(spec, **options), self._lifecycle.ending)
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    answer.take(event)
                    yield event
        except BaseException as error:
            answer.broken(error)
            raise
        finally:
            self._lifecycle.answers -= 1
            self._metrics.answers_running.dec()


class _Answer:
    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._given = metrics, model
        self._began = time.monotonic()
        self._pieces = 0
        self._ended = False

    @property
    def _model(self) -> str:
        return self._metrics.model(self._given)

    def take(self, event: Event) -> None:
        metrics = self._metrics
        if isinstance(event, TokenDelta):
            if self._pieces == 0:
                metrics.first_token_seconds.labels(self._model).observe(time.monotonic() - self._began)
            self._pieces += 1
            metrics.tokens.labels(self._model, "out").inc()  # so that the count grows while the answer does
        elif isinstance(event, Measured):
            self._measured(event.values)
        elif isinstance(event, Failed):
            self._end("failed")
            metrics.failures.labels(PANEL, metrics.reason(event)).inc()
        elif isinstance(event, Finished):
            self._end("cancelled" if event.reason == "cancelled" else "succeeded")

    def broken(self, error: BaseException) -> None:
        """The answer ended without a last event: refused, or its client has gone."""
        if self._ended:
            return
        refused = isinstance(error, Exception)
        self._end("failed" if refused else "cancelled")
        if refused:
            self._metrics.failures.labels(PANEL, self._metrics.reason_of(getattr(error, "code", None))).inc()

    def _measured(self, values: dict[str, float]) -> None:
        tokens = self._metrics.tokens
        tokens.labels(self._model, "in").inc(max(0.0, values.get("prompt_tokens", 0.0)))
        # Several tokens may come as one piece, never one token as several.
        tokens.labels(self._model, "out").inc(max(0.0, values.get("completion_tokens", 0.0) - self._pieces))
        if (speed := values.get("tokens_per_second", 0.0)) > 0:
            self._metrics.tokens_speed.labels(self._model).observe(speed)

    def _end(self, outcome: str) -> None:
        if not self._ended:
            self._ended = True
            self._metrics.ended.labels(PANEL, outcome).inc()
