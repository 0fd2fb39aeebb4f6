"""What OpenAI's clients get back, as JSON values. Pure."""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["chat", "completion"]


def usage(metrics: dict[str, float]) -> dict[str, int]:
    prompt, answer = int(metrics.get("prompt_tokens", 0)), int(metrics.get("completion_tokens", 0))
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def whole(kind: Kind, id: str, created: int, model: str, text: str, reason: str, counts: dict[str, int]) -> Any:
    """An answer that is not streamed."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return {**_head("chat.completion" if kind == "chat" else "text_completion", id, created, model),
            "choices": [choice], "usage": counts}


def chunk(
    kind: Kind, id: str, created: int, model: str, *, text: str | None = None, reason: str | None = None,
    role: bool = False,
) -> Any:
    """A piece of a streamed answer. `role`: the first one, which says who speaks."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
    if kind == "chat":
        choice["delta"] = {**({"role": "assistant"} if role else {}), **({} if text is None else {"content": text})}
    else:
        choice["text"] = text or ""
    return {**_head("chat.completion.chunk" if kind == "chat" else "text_completion", id, created, model),
            "choices": [choice]}


def usage_chunk(kind: Kind, id: str, created: int, model: str, counts: dict[str, int]) -> Any:
    """The last piece, where the client asked for it: no text, only the counts."""
    return {**chunk(kind, id, created, model), "choices": [], "usage": counts}


def _head(object: str, id: str, created: int, model: str) -> dict[str, Any]:
    return {"id": id, "object": object, "created": created, "model": model, "system_fingerprint": None}
