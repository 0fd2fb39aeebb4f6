"""llama.cpp's stream of chunks, turned into events."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from diptych.core.chat import TokenProbability
from diptych.core.errors import DiptychError
from diptych.core.events import Data, Event, Failed, Finished, Metrics, TokenDelta
from diptych.engines.base import Emit
from diptych.engines.text.stops import Piece, StopWatch

LOWEST = -1e4
"""A logarithm for probability zero: JSON has no infinity."""


class Answer:
    """One run as it is answered. `take` is llama.cpp's callback; nothing it raises would be seen, so it keeps errors.

    Args:
        param: field that holds the prompt, for error messages ("messages", "prompt", "input" …).
        stops: texts that end the answer.
        logprobs: how many likely tokens to tell at each place; None: no probabilities at all.
    """

    def __init__(self, emit: Emit, param: str, stops: Iterable[str] = (), logprobs: int | None = None) -> None:
        self._emit = emit
        self.param = param
        self._stops = StopWatch(stops)
        self._logprobs = logprobs
        self._accepted = time.monotonic()
        self._first: float | None = None
        self._reason: str | None = None
        self._failed: Failed | None = None
        self._counts = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
        self._before = 0
        self._extra: dict[str, float] = {}
        self.tokens: list[int] = []
        self.text = ""
        self.cancelled = False
        self.refused: dict[str, Any] | None = None

    def take(self, chunk: dict[str, Any]) -> bool:
        """True asks llama.cpp to stop."""
        if self.cancelled or self._stops.found is not None:
            return True
        try:
            self._read(chunk)
        except Exception as error:
            self._failed = Failed(message=f"llama.cpp's answer was not understood: {error!r}"[:300], status=503)
        return self.cancelled or self._failed is not None or self._stops.found is not None

    def note(self, **metrics: float) -> None:
        """Figures to tell with the others at the end."""
        self._extra |= metrics

    def tell(self, text: str) -> None:
        """Emit text that the model did not make: the prompt of a completion with `echo`."""
        if text:
            self._emit(TokenDelta(text=text))

    def result(self, value: dict[str, Any], tokens: int) -> None:
        """Emit the result of work that makes no text; `finish` ends the run."""
        self._counts["prompt_tokens"] = tokens
        self._reason = "stop"
        self._emit(Data(value=value))

    def again(self) -> None:
        """A second request goes on where the first has ended: its prompt holds what the first one made."""
        self._before, self._reason = self._counts["completion_tokens"], None

    def finish(self) -> None:
        """Emit the end, once llama.cpp has returned."""
        if self.refused is not None and not self.cancelled:
            self._failed = self._failed or read_error(self.refused, self.param)
        stopped = self._stops.found is not None
        if self._failed is None and self._reason is None and not self.cancelled and not stopped:
            self._failed = Failed(message="llama.cpp ended its answer too early", status=503, retryable=True)
        if self._failed is not None:
            self._emit(self._failed)
            return
        if not self.cancelled and not stopped:
            self._tell(self._stops.flush())
        self._emit(self._metrics())
        reason = "cancelled" if self.cancelled else "stop" if stopped else self._reason or "stop"
        self._emit(Finished(reason=reason, stop=None if self.cancelled else self._stops.found))

    def fail(self, failed: Failed) -> None:
        """End with an error that was raised instead of streamed."""
        self._failed = failed
        self.finish()

    def fail_later(self, failed: Failed) -> None:
        """Have `finish` tell an error."""
        self._failed = failed

    @property
    def failed(self) -> bool:
        return self._failed is not None or self.refused is not None

    @property
    def ended(self) -> str | None:
        """Why llama.cpp ended; None while it has not."""
        return "stop" if self._stops.found is not None else self._reason

    def _read(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.refused = chunk["error"]
            return
        self._count(chunk)
        for choice in chunk.get("choices") or ():
            found = (choice.get("logprobs") or {}).get("content") or ()
            self.tokens += [item["id"] for item in found]
            piece = Piece(choice.get("text") or "", self._read_logprobs(found))
            self.text += piece.text
            if piece.text or piece.logprobs:
                self._first = self._first or time.monotonic()
                self._tell(self._stops.add(piece))
            if choice.get("finish_reason"):
                self._reason = "length" if choice["finish_reason"] == "length" else "stop"

    def _read_logprobs(self, found: Iterable[dict[str, Any]]) -> tuple[TokenProbability, ...]:
        if self._logprobs is None:
            return ()
        return tuple(
            _probability(item, tuple(_probability(other) for other in item["top_logprobs"][:self._logprobs]))
            for item in found)

    def _tell(self, piece: Piece | None) -> None:
        if piece is not None and (piece.text or piece.logprobs):
            self._emit(TokenDelta(text=piece.text, logprobs=piece.logprobs))

    def _count(self, chunk: dict[str, Any]) -> None:
        timings = chunk.get("timings") or {}
        prompt = timings.get("cache_n", 0) + timings.get("prompt_n", 0)
        completion = timings.get("predicted_n", 0)
        if usage := chunk.get("usage"):
            prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        if not self._before and prompt:
            self._counts["prompt_tokens"] = prompt
            self._counts["cached_tokens"] = max(0, timings.get("cache_n", self._counts["cached_tokens"]))
        if completion:
            self._counts["completion_tokens"] = self._before + completion

    def _metrics(self) -> Event:
        now = time.monotonic()
        values = {name: float(count) for name, count in self._counts.items()} | self._extra
        values["seconds"] = now - self._accepted
        if self._first is not None:
            values["first_token_seconds"] = self._first - self._accepted
            # The first token comes with the prompt; the speed is that of those after it.
            if self._counts["completion_tokens"] > 1 and now > self._first:
                values["tokens_per_second"] = (self._counts["completion_tokens"] - 1) / (now - self._first)
        return Metrics(values=values)


def _probability(item: dict[str, Any], top: tuple[TokenProbability, ...] = ()) -> TokenProbability:
    logprob = item["logprob"]
    return TokenProbability(
        token=item["token"], logprob=LOWEST if logprob is None else max(LOWEST, float(logprob)),
        bytes=tuple(item.get("bytes") or ()), top=top)


def failure(error: DiptychError) -> Failed:
    """An error of ours as the event that ends a run."""
    return Failed(message=error.message, status=error.status, param=error.param, code=error.code)


def read_error(error: dict[str, Any], param: str) -> Failed:
    """An `error` object of llama.cpp; a prompt over the context gives both counts."""
    if error.get("type") == "exceed_context_size_error":
        return over_context(error["n_prompt_tokens"], error["n_ctx"], param)
    message = str(error.get("message", "no message"))[:500]
    if error.get("code") == 400:
        return Failed(message=f"{param}: {message}", status=400, param=param, code="invalid_value")
    return Failed(message=f"llama.cpp failed: {message}", status=503, code="engine_failed", retryable=True)


def over_context(tokens: int, limit: int, param: str) -> Failed:
    """What a prompt of `tokens` tokens is told that leaves no room for an answer within `limit`."""
    return Failed(
        message=f"{param}: the prompt has {tokens} tokens, and this model's maximum context length is {limit} tokens "
        "(prompt and answer together)",
        status=400, param=param, code="context_length_exceeded")
