"""How the next token is chosen: llama.cpp's chain of samplers over numpy. Pure.

The order is llama.cpp's: bias, penalties, DRY, top-k, typical, top-p, min-p, temperature, and the draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from diptych.core.specs import Sampling

Logits = np.ndarray[Any, np.dtype[np.float64]]
Item = TypeVar("Item")
DRY_LONGEST = 1000
"""Tokens of a repetition beyond which its penalty grows no more."""


class Chooser:
    """Chooses the tokens of one answer.

    Args:
        biases: what is added to the logits of which token ids.
        bytes_of: the text of a token, for DRY's breakers.
    """

    def __init__(self, sampling: Sampling, biases: Mapping[int, float], bytes_of: Callable[[int], bytes]) -> None:
        self._sampling, self._biases = sampling, dict(biases)
        self._random = np.random.default_rng(sampling.seed)
        self._breaks = Breaks(sampling.dry_sequence_breakers, bytes_of)

    def choose(self, logits: Logits, before: Sequence[int], banned: Sequence[int] = ()) -> int:
        """The next token.

        Args:
            logits: of the whole vocabulary, as float64; changed in place. -inf is never chosen.
            before: tokens of the prompt and the answer so far.
            banned: ids that must not be chosen.
        """
        for id, bias in self._biases.items():
            logits[id] += bias
        logits[list(banned)] = -np.inf
        self._penalize(logits, before)
        if self._sampling.dry_multiplier:
            self._dry(logits, before)
        if self._sampling.temperature <= 0:
            return int(np.argmax(logits))
        ids, left = self._candidates(logits)
        chances = _softmax(left / self._sampling.temperature)
        place = int(np.searchsorted(np.cumsum(chances), self._random.random() * chances.sum(), side="right"))
        return int(ids[min(place, len(ids) - 1)])

    def _penalize(self, logits: Logits, before: Sequence[int]) -> None:
        sampling = self._sampling
        if not sampling.frequency_penalty and not sampling.presence_penalty and sampling.repeat_penalty == 1.0:
            return
        counts = Counter(_last(before, sampling.repeat_last_n))
        for id, count in counts.items():
            if sampling.repeat_penalty != 1.0:
                value = logits[id]
                logits[id] = value * sampling.repeat_penalty if value <= 0 else value / sampling.repeat_penalty
            logits[id] -= count * sampling.frequency_penalty + sampling.presence_penalty

    def _dry(self, logits: Logits, before: Sequence[int]) -> None:
        """Tokens that would make a repetition of what has been said longer get less likely with its length."""
        sampling = self._sampling
        breaks = self._breaks.of(before)
        window = _last(before, sampling.dry_penalty_last_n)
        longest = repetitions(window, _last(breaks, sampling.dry_penalty_last_n))
        for id, length in longest.items():
            if length >= sampling.dry_allowed_length:
                power = min(length - sampling.dry_allowed_length, 100)
                logits[id] -= sampling.dry_multiplier * min(sampling.dry_base ** power, 1e6)

    def _candidates(self, logits: Logits) -> tuple[np.ndarray[Any, Any], Logits]:
        """Ids and logits that are left to draw from, likeliest first."""
        sampling = self._sampling
        count = int(np.isfinite(logits).sum())
        keep = min(sampling.top_k or count, count)
        ids = np.argpartition(logits, -keep)[-keep:] if keep < len(logits) else np.arange(len(logits))
        ids = ids[np.argsort(-logits[ids], kind="stable")][:keep]
        left = logits[ids]
        if sampling.typical_p < 1.0:
            ids, left = _typical(ids, left, sampling.typical_p)
        if sampling.top_p < 1.0:
            kept = int(np.searchsorted(np.cumsum(_softmax(left)), sampling.top_p)) + 1
            ids, left = ids[:kept], left[:kept]
        if sampling.min_p > 0.0:
            kept = max(1, int((left >= left[0] + np.log(sampling.min_p)).sum()))
            ids, left = ids[:kept], left[:kept]
        return ids, left


class Breaks:
    """Which tokens of a growing text end one of the texts across which DRY follows no repetition."""

    def __init__(self, texts: Sequence[str], bytes_of: Callable[[int], bytes]) -> None:
        self._texts = [text.encode() for text in texts if text]
        self._bytes_of = bytes_of
        self._tail = b""
        self._found: list[bool] = []

    def of(self, tokens: Sequence[int]) -> Sequence[bool]:
        """One for each of `tokens`, which begin with those of the last call."""
        for token in tokens[len(self._found):]:
            added = self._bytes_of(token)
            self._found.append(any(text in self._tail[-(len(text) - 1):] * (len(text) > 1) + added
                                   for text in self._texts))
            self._tail = (self._tail + added)[-1000:]
        return self._found


def repetitions(tokens: Sequence[int], breaks: Sequence[bool]) -> dict[int, int]:
    """For every token that once followed what the text now ends with: how many tokens of it are the same there, the
    longest such repetition. A token with a break ends a repetition, and is never part of one."""
    found: dict[int, int] = {}
    if not tokens or breaks[-1]:
        return found
    end = len(tokens) - 1
    for place in range(end):
        if tokens[place] != tokens[end] or breaks[place + 1]:
            continue
        length = 1
        while (length <= place and length < DRY_LONGEST and tokens[place - length] == tokens[end - length]
               and not breaks[end - length]):
            length += 1
        found[tokens[place + 1]] = max(found.get(tokens[place + 1], 0), length)
    return found


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities of `logits`."""
    shifted: Logits = logits - logits.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def _typical(ids: np.ndarray[Any, Any], left: Logits, share: float) -> tuple[np.ndarray[Any, Any], Logits]:
    """Those whose surprise is closest to the expected one, until they have `share` of the probability."""
    logs = log_softmax(left)
    chances = np.exp(logs)
    entropy = -(chances * logs).sum()
    order = np.argsort(np.abs(-logs - entropy), kind="stable")
    kept = np.sort(order[:int(np.searchsorted(np.cumsum(chances[order]), share)) + 1])
    return ids[kept], left[kept]


def _softmax(logits: Logits) -> Logits:
    chances: Logits = np.exp(logits - logits.max())
    chances /= chances.sum()
    return chances


def _last(tokens: Sequence[Item], count: int) -> Sequence[Item]:
    return tokens if count < 0 else tokens[len(tokens) - min(count, len(tokens)):]
