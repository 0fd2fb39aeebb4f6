"""What the model has read of requests that have ended, kept for those that begin the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.engines.transformers.lora import Weights
from diptych.engines.transformers.steps import State


class States:
    """Belongs to the thread that computes.

    Args:
        most: states at once, of requests that run and of those that have ended.
    """

    def __init__(self, model: Any, most: int) -> None:
        self._model, self._most, self._used = model, most, 0
        self._idle: list[State] = []

    def take(self, tokens: Sequence[int], weights: Weights, pictures: bool) -> tuple[State, int]:
        """A state for a request, and how many tokens of its prompt it has already read: at least one is left."""
        best, common = None, 0
        for state in () if pictures else self._idle:
            shared = min(_common(state.tokens, tokens), len(tokens) - 1) if state.weights == weights else 0
            if shared > common:
                best, common = state, shared
        self._used += 1
        if best is not None:
            self._idle.remove(best)
            best.cut(common)
        else:
            best = State(self._model, weights)
            best.pictures = pictures
        self._drop()
        return best, common

    def give_back(self, state: State) -> None:
        """Keep it for later, where it can be cut; pictures are no part of its tokens."""
        self._used -= 1
        if state.plain and state.tokens and not state.pictures and not state.broken:
            self._idle.append(state)
            self._drop()

    def _drop(self) -> None:
        """Forget the oldest ones that there is no room for."""
        del self._idle[:max(0, len(self._idle) - max(0, self._most - self._used))]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    count = min(len(first), len(second))
    return next((place for place in range(count) if first[place] != second[place]), count)
