"""Probabilities of labels from the likelihoods that a chat model gives them. Pure.

A label's logit is how much likelier the text makes it than texts do that say nothing: what the model likes to say
anyway, because a label is short or common, counts for nothing so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.chat import Message
from diptych.core.specs import ScoreSpec
from diptych.text.relevance import sigmoid

NEUTRAL = ("N/A", "The cat sat on the mat.", "What is the capital of France?", "It is ten o'clock.")
"""Texts whose likelihoods are what a label has anyway."""
BEGUN = "Label:"


@dataclass(frozen=True)
class Label:
    name: str
    description: str = ""


@dataclass(frozen=True)
class Example:
    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked about every text. `multi`: any number of labels may fit, also none."""

    labels: tuple[Label, ...]
    examples: tuple[Example, ...] = ()
    instructions: str = ""
    multi: bool = False

    def spec(self, model: str, text: str) -> ScoreSpec:
        """Scores each label, with the end of its line, as the answer about `text`."""
        messages = []
        for example in self.examples:
            messages += [self._asked(example.text),
                         Message(role="assistant", content=f"{BEGUN} {', '.join(example.labels) or 'none'}")]
        begun = Message(role="assistant", content=BEGUN, prefix=True)
        return ScoreSpec(model=model, messages=(*messages, self._asked(text), begun),
                         options=tuple(f" {label.name}\n" for label in self.labels))

    def _asked(self, text: str) -> Message:
        names = ", ".join(label.name for label in self.labels)
        which = f"Which labels fit this text: {names}?" if self.multi else f"Which label fits this text best: {names}?"
        told = "".join(f"\n- {label.name}: {label.description}" for label in self.labels if label.description)
        first = f"{self.instructions}\n\n" if self.instructions else ""
        return Message(role="user", content=f"{first}{which}{told}\n\nText: {text}")


def baseline_of(likelihoods: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of each label over texts that say nothing. `likelihoods`: natural logarithms, (texts, labels)."""
    return tuple(math.fsum(column) / len(column) for column in zip(*likelihoods, strict=True))


def logits_of(likelihoods: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    return tuple(one - base for one, base in zip(likelihoods, baseline, strict=True))


def probabilities(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """They sum to 1."""
    scaled = [logit / temperature for logit in logits]
    most = max(scaled)
    parts = [math.exp(value - most) for value in scaled]
    total = math.fsum(parts)
    return [part / total for part in parts]


def independent(logits: Sequence[float], temperature: float = 1.0, bias: float = 0.0) -> list[float]:
    """The probability of each label on its own."""
    return [sigmoid(logit / temperature + bias) for logit in logits]
