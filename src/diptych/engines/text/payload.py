"""Specs as llama.cpp's own request bodies. Pure."""

from __future__ import annotations

from typing import Any

from diptych.core.specs import ChatSpec, CompletionSpec, Sampling


def chat_payload(spec: ChatSpec) -> dict[str, Any]:
    """Body of a chat completion; the model's own template makes the prompt of it."""
    messages = [{"role": message.role, "content": message.text} for message in spec.messages]
    return {"messages": messages, **_common(spec.sampling)}


def completion_payload(spec: CompletionSpec) -> dict[str, Any]:
    return {"prompt": spec.prompt, **_common(spec.sampling)}


def merge_turns(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Neighbouring messages of one role as one message, with an empty line between: for templates that refuse two
    user turns in a row."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(dict(message))
    return merged


def _common(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
        "min_p": sampling.min_p, "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty, "repeat_penalty": sampling.repeat_penalty,
        "stop": list(sampling.stop), "stream": True, "stream_options": {"include_usage": True},
        # Counts in every chunk, for a run that is cancelled; chunks while the prompt is read, so that it can be.
        "timings_per_token": True, "return_progress": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    return body
