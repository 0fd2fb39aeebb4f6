"""Tokens of one run, turned into events."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterable

from diptych.core.chat import TokenProbability
from diptych.core.events import Data, Failed, Finished, Metrics, TokenDelta
from diptych.engines.base import Emit
from diptych.engines.text.stops import Piece, StopWatch


class Answer:
    """One run as it is answered. Written by the engine's thread alone, but for `cancelled`.

    Args:
        param: field that holds the prompt, for error messages ("messages", "prompt", "input" …).
        stops: texts that end the answer.
    """

    def __init__(self, emit: Emit, param: str, stops: Iterable[str] = ()) -> None:
        self._emit = emit
        self.param = param
        self._stops = StopWatch(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._accepted = time.monotonic()
        self._first: float | None = None
        self._extra: dict[str, float] = {}
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.reason = "stop"
        self.cancelled = False

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come."""
        return self._stops.found is not None

    def note(self, **metrics: float) -> None:
        """Figures to tell with the others at the end."""
        self._extra |= metrics

    def tell(self, text: str) -> None:
        """Emit text that the model did not make: the prompt of a completion with `echo`."""
        if text:
            self._emit(TokenDelta(text=text))

    def token(self, data: bytes, logprobs: tuple[TokenProbability, ...] = ()) -> None:
        """The next token; `data` is what it adds to the text, and may end within a character."""
        self.completion_tokens += 1
        self._first = self._first or time.monotonic()
        self._tell(self._stops.add(Piece(self._decoder.decode(data), logprobs)))

    def result(self, value: dict[str, object], tokens: int) -> None:
        """Emit the result of work that makes no text."""
        self.prompt_tokens = tokens
        self._emit(Data(value={**value, "tokens": tokens}))

    def finish(self) -> None:
        """Emit the end. Bytes of a character that never became whole are left out."""
        if not self.cancelled and not self.stopped:
            self._tell(self._stops.flush())
        self._emit(self._metrics())
        self._emit(Finished(reason="cancelled" if self.cancelled else "stop" if self.stopped else self.reason,
                            stop=None if self.cancelled else self._stops.found))

    def fail(self, failed: Failed) -> None:
        self._emit(failed)

    def _tell(self, piece: Piece | None) -> None:
        if piece is not None and (piece.text or piece.logprobs):
            self._emit(TokenDelta(text=piece.text, logprobs=piece.logprobs))

    def _metrics(self) -> Metrics:
        now = time.monotonic()
        values: dict[str, float] = {
            "prompt_tokens": float(self.prompt_tokens), "cached_tokens": float(self.cached_tokens),
            "completion_tokens": float(self.completion_tokens), **self._extra, "seconds": now - self._accepted}
        if self._first is not None:
            values["first_token_seconds"] = self._first - self._accepted
            # The first token comes with the prompt; the speed is that of those after it.
            if self.completion_tokens > 1 and now > self._first:
                values["tokens_per_second"] = (self.completion_tokens - 1) / (now - self._first)
        return Metrics(values=values)
