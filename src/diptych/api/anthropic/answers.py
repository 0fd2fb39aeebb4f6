"""What Anthropic's clients get back, as JSON values. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from diptych.api.openai.answers import Said
from diptych.core.events import Event, Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
"""Others keep their name: "repetition"."""
Piece = tuple[str, dict[str, Any]]


def usage(metrics: dict[str, float]) -> dict[str, Any]:
    """Anthropic counts what was read from the cache apart from the other input."""
    cached = int(metrics.get("cached_tokens", 0))
    return {"input_tokens": int(metrics.get("prompt_tokens", 0)) - cached, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached, "output_tokens": int(metrics.get("completion_tokens", 0))}


def ending(finished: Finished) -> dict[str, Any]:
    if finished.stop is not None and finished.reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": finished.stop}
    told = {"stop_reason": REASONS.get(finished.reason, finished.reason), "stop_sequence": None}
    return told if finished.guard is None else {**told, "guard": {"blocked": finished.guard}}


def whole(id: str, model: str, said: Said) -> dict[str, Any]:
    """An answer that is not streamed."""
    assert said.finished is not None
    content: list[dict[str, Any]] = []
    if said.reasoning:
        content.append({"type": "thinking", "thinking": "".join(said.reasoning), "signature": ""})
    if said.text:
        content.append({"type": "text", "text": "".join(said.text)})
    content += [{"type": "tool_use", "id": call["id"], "name": call["name"], "input": _arguments(call["arguments"])}
                for call in said.calls]
    return {"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
            **ending(said.finished), "usage": usage(said.metrics)}


def _arguments(text: str) -> dict[str, Any]:
    """A call may be cut off by the limit of tokens: what there is then is no JSON."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {"_unfinished": text}
    return value if isinstance(value, dict) else {"input": value}


class Blocks:
    """The events of a streamed answer: blocks that begin, grow and end, one after the other."""

    def __init__(self, id: str, model: str) -> None:
        self._id, self._model = id, model
        self._index = -1
        self._kind: str | None = None
        self._call = -1
        self._metrics: dict[str, float] = {}

    def begin(self) -> Piece:
        message: dict[str, Any] = {
            "id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage({})}
        return "message_start", {"type": "message_start", "message": message}

    def take(self, event: Event) -> Iterator[Piece]:
        if isinstance(event, TokenDelta):
            if event.text:
                yield from self._open("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.text})
        elif isinstance(event, ReasoningDelta):
            yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, ToolCallDelta):
            yield from self._take_call(event)
        elif isinstance(event, Metrics):
            self._metrics = event.values
        elif isinstance(event, Finished):
            yield from self._close()
            yield "message_delta", {"type": "message_delta", "delta": ending(event), "usage": usage(self._metrics)}
            yield "message_stop", {"type": "message_stop"}

    def _take_call(self, event: ToolCallDelta) -> Iterator[Piece]:
        if event.index != self._call or self._kind != "tool_use":
            yield from self._close()
            self._call = event.index
            yield from self._open("tool_use", {"type": "tool_use", "id": event.id or "", "name": event.name or "",
                                               "input": {}})
        if event.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})

    def _open(self, kind: str, block: dict[str, Any]) -> Iterator[Piece]:
        if self._kind == kind:
            return
        yield from self._close()
        self._index, self._kind = self._index + 1, kind
        yield "content_block_start", {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[Piece]:
        if self._kind is None:
            return
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": ""})
        self._kind = None
        yield "content_block_stop", {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: dict[str, Any]) -> Piece:
        return "content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta}
