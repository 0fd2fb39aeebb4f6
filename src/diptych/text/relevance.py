"""How well a document answers a query, by a model that was not trained to say so. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diptych.core.chat import Message
from diptych.core.specs import ScoreSpec

_ASK = "Write a question that this passage answers.\n\nPassage: {passage}"
_NOTHING = "(empty)"


def query_given(model: str, query: str, document: str | None) -> ScoreSpec:
    """Scores the query as what the model would ask about the document; None: about no document."""
    text = _ASK.format(passage=_NOTHING if document is None else document)
    return ScoreSpec(model=model, messages=(Message(role="user", content=text),), options=(query,))


def gain(with_document: float, without: float, query: str) -> float:
    """0 to 1; over 0.5 where the document makes the query likelier than no document does. Natural logarithms, per
    word of the query, so that long queries do not end at 0 or 1."""
    return sigmoid((with_document - without) / max(1, len(query.split())))


def sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """-1 to 1; 0 where one of them is nothing but zeros."""
    lengths = math.sqrt(math.fsum(a * a for a in first)) * math.sqrt(math.fsum(b * b for b in second))
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0
