"""llama.cpp's stream of chunks, turned into events."""

from __future__ import annotations

import time
from typing import Any

from diptych.core.events import Event, Failed, Finished, Metrics, TokenDelta
from diptych.engines.base import Emit


class Answer:
    """One run as it is answered. `take` is llama.cpp's callback; nothing it raises would be seen, so it keeps errors.

    Args:
        prompt_param: field that holds the prompt, for error messages ("messages" or "prompt").
    """

    def __init__(self, emit: Emit, prompt_param: str) -> None:
        self._emit = emit
        self._param = prompt_param
        self._accepted = time.monotonic()
        self._first: float | None = None
        self._reason: str | None = None
        self._failed: Failed | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self.cancelled = False

    def take(self, chunk: dict[str, Any]) -> bool:
        """True asks llama.cpp to stop."""
        if self.cancelled:
            return True
        try:
            self._read(chunk)
        except Exception as error:
            self._failed = Failed(message=f"llama.cpp's answer was not understood: {error!r}"[:300], status=503)
        return self.cancelled or self._failed is not None

    def finish(self) -> None:
        """Emit the end, once llama.cpp has returned."""
        if self._failed is None and self._reason is None and not self.cancelled:
            self._failed = Failed(message="llama.cpp ended its answer too early", status=503, retryable=True)
        if self._failed is None and self._prompt_tokens + self._completion_tokens == 0 and not self.cancelled:
            self._failed = Failed(
                message=f"{self._param} is empty: there is nothing to continue", status=400, param=self._param,
                code="invalid_value")
        if self._failed is not None:
            self._emit(self._failed)
            return
        self._emit(self._metrics())
        self._emit(Finished(reason="cancelled" if self.cancelled else self._reason or "stop"))

    def fail(self, failed: Failed) -> None:
        """End with an error that llama.cpp raised instead of streaming it."""
        self._failed = failed
        self.finish()

    @property
    def begun(self) -> bool:
        """Whether any text has been emitted."""
        return self._first is not None

    def _read(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self._failed = read_error(chunk["error"], self._param)
            return
        self._count(chunk)
        for choice in chunk.get("choices") or ():
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if text:
                self._first = self._first or time.monotonic()
                self._emit(TokenDelta(text=text))
            if choice.get("finish_reason"):
                self._reason = "length" if choice["finish_reason"] == "length" else "stop"

    def _count(self, chunk: dict[str, Any]) -> None:
        if usage := chunk.get("usage"):
            self._prompt_tokens, self._completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        elif timings := chunk.get("timings"):
            self._prompt_tokens = timings.get("cache_n", 0) + timings.get("prompt_n", 0)
            self._completion_tokens = timings.get("predicted_n", 0)

    def _metrics(self) -> Event:
        now = time.monotonic()
        values = {
            "prompt_tokens": float(self._prompt_tokens), "completion_tokens": float(self._completion_tokens),
            "seconds": now - self._accepted,
        }
        if self._first is not None:
            values["first_token_seconds"] = self._first - self._accepted
            # The first token comes with the prompt; the speed is that of those after it.
            if self._completion_tokens > 1 and now > self._first:
                values["tokens_per_second"] = (self._completion_tokens - 1) / (now - self._first)
        return Metrics(values=values)


def read_error(error: dict[str, Any], param: str) -> Failed:
    """An `error` object of llama.cpp; a prompt over the context gives both counts."""
    if error.get("type") == "exceed_context_size_error":
        return Failed(
            message=f"{param}: the prompt has {error['n_prompt_tokens']} tokens, the limit is {error['n_ctx']} "
            "(prompt and answer together)", status=400, param=param, code="context_length_exceeded")
    message = str(error.get("message", "no message"))[:500]
    if error.get("code") == 400:
        return Failed(message=message, status=400, code="invalid_value")
    return Failed(message=f"llama.cpp failed: {message}", status=503, code="engine_failed", retryable=True)
