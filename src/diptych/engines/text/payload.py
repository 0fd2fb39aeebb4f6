"""Specs as llama.cpp's own request bodies. Pure."""

from __future__ import annotations

from typing import Any

from diptych.core.specs import Sampling

ALL_PROBABILITIES = 1
"""llama.cpp tells the probability of the chosen token only where it is asked for at least one."""
NO_BREAKER = "\ue000\ue001"
"""DRY needs at least one sequence breaker: for a request with none, a text that nobody writes."""


def sampling_body(sampling: Sampling, context: int, biases: dict[int, float]) -> dict[str, Any]:
    """What a request says about how tokens are chosen. Stop texts are not part of it: they are found in the stream,
    which alone tells which of them it was.

    Args:
        context: tokens of the slot; penalties look back no further.
        biases: what is added to the logits of which token ids.
    """
    body: dict[str, Any] = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
        "min_p": sampling.min_p, "typical_p": sampling.typical_p,
        "frequency_penalty": sampling.frequency_penalty, "presence_penalty": sampling.presence_penalty,
        "repeat_penalty": sampling.repeat_penalty, "repeat_last_n": _back(sampling.repeat_last_n, context),
        "ignore_eos": sampling.ignore_eos, "logit_bias": [[id, value] for id, value in biases.items()],
        "stream": True, "stream_options": {"include_usage": True},
        # Counts in every chunk, for a run that is cancelled; chunks while the prompt is read, so that it can be.
        "timings_per_token": True, "return_progress": True,
    }
    if sampling.dry_multiplier:
        body |= {
            "dry_multiplier": sampling.dry_multiplier, "dry_base": sampling.dry_base,
            "dry_allowed_length": sampling.dry_allowed_length,
            "dry_penalty_last_n": _back(sampling.dry_penalty_last_n, context),
            "dry_sequence_breakers": list(sampling.dry_sequence_breakers) or [NO_BREAKER],
        }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.logprobs is not None:
        body["n_probs"] = max(sampling.logprobs, ALL_PROBABILITIES)
    return body


def _back(tokens: int, context: int) -> int:
    """Tokens to look back; -1 is all of them."""
    return context if tokens < 0 else min(tokens, context)
