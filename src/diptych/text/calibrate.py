"""A temperature under which probabilities mean what they say, from texts whose labels are known. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.text.classify import independent, probabilities

BINS = 10
LEAST, MOST = 0.02, 200.0
"""Temperatures that are looked at."""
MAX_BIAS = 20.0
STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2
_TINY = 1e-12
Logits = Sequence[float]


@dataclass(frozen=True)
class Scale:
    """Logits are divided by `temperature`; to those of labels that stand alone `bias` is added then."""

    temperature: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True)
class Quality:
    """On texts that the scale was not fitted to: expected calibration error (10 bins of equal width), mean negative
    log-likelihood of the right labels, and the share that was right."""

    ece: float
    nll: float
    accuracy: float


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to fit to, and those held out: at least one of each."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    held = min(count - 1, max(1, round(count * share)))
    return sorted(order[held:]), sorted(order[:held])


def fit_single(logits: Sequence[Logits], truth: Sequence[int]) -> Scale:
    """The temperature with the least negative log-likelihood, which has one minimum in its inverse."""
    return Scale(_least(lambda value: quality_single(logits, truth, Scale(math.exp(value))).nll))


def fit_multi(logits: Sequence[Logits], truth: Sequence[Sequence[bool]]) -> Scale:
    """Temperature and bias for labels that stand alone, by turns."""
    scale = Scale()
    for _ in range(6):
        bias = scale.bias
        scale = Scale(_least(lambda value, bias=bias: quality_multi(  # type: ignore[misc]
            logits, truth, Scale(math.exp(value), bias)).nll), bias)
        temperature = scale.temperature
        scale = Scale(temperature, _golden(lambda value, temperature=temperature: quality_multi(  # type: ignore[misc]
            logits, truth, Scale(temperature, value)).nll, -MAX_BIAS, MAX_BIAS))
    return scale


def quality_single(logits: Sequence[Logits], truth: Sequence[int], scale: Scale) -> Quality:
    pairs, nll, right = [], 0.0, 0
    for one, label in zip(logits, truth, strict=True):
        found = probabilities(one, scale.temperature)
        best = max(range(len(found)), key=lambda index: found[index])
        pairs.append((found[best], best == label))
        nll -= math.log(max(found[label], _TINY))
        right += best == label
    return Quality(calibration_error(pairs), nll / len(pairs), right / len(pairs))


def quality_multi(logits: Sequence[Logits], truth: Sequence[Sequence[bool]], scale: Scale) -> Quality:
    """Every label of every text counts as one decision."""
    pairs, nll = [], 0.0
    for one, labels in zip(logits, truth, strict=True):
        for chance, fits in zip(independent(one, scale.temperature, scale.bias), labels, strict=True):
            pairs.append((max(chance, 1 - chance), (chance >= 0.5) == fits))
            nll -= math.log(max(chance if fits else 1 - chance, _TINY))
    return Quality(calibration_error(pairs), nll / len(pairs), sum(right for _, right in pairs) / len(pairs))


def calibration_error(pairs: Sequence[tuple[float, bool]], bins: int = BINS) -> float:
    """Expected calibration error: how far confidence is from the share that was right, over bins of equal width,
    weighted by how many fall into each. `pairs`: confidence 0 to 1, and whether it was right."""
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for chance, right in pairs:
        groups[min(bins - 1, int(chance * bins))].append((chance, right))
    return math.fsum(
        abs(math.fsum(chance for chance, _ in group) - sum(right for _, right in group)) for group in groups
    ) / max(1, len(pairs))


def _least(loss: Callable[[float], float]) -> float:
    return math.exp(_golden(loss, math.log(LEAST), math.log(MOST)))


def _golden(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, by golden-section search."""
    first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_first, at_second = loss(first), loss(second)
    for _ in range(STEPS):
        if at_first <= at_second:
            high, second, at_second = second, first, at_first
            first = high - _GOLDEN * (high - low)
            at_first = loss(first)
        else:
            low, first, at_first = first, second, at_second
            second = low + _GOLDEN * (high - low)
            at_second = loss(second)
    return (low + high) / 2
