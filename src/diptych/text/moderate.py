"""How much a text belongs to what should not be said, from the likelihoods of a chat model. Pure.

The model is asked for the kind of the text in a few words, and each category's words are scored as that answer. The
score is the logistic function of how much likelier the text makes them than the worst of some harmless texts does:
0.5 is as bad as that.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.core.chat import Message
from diptych.core.specs import ScoreSpec
from diptych.text.relevance import sigmoid

CATEGORIES = {
    "harassment": "insulting harassment", "harassment/threatening": "a threat against a person",
    "hate": "hate", "hate/threatening": "hate and a threat of violence",
    "illicit": "instructions for a crime", "illicit/violent": "instructions for violence or weapons",
    "self-harm": "self-harm", "self-harm/intent": "a wish to commit suicide",
    "self-harm/instructions": "instructions for suicide",
    "sexual": "sexual content", "sexual/minors": "sexual content about children",
    "violence": "violence", "violence/graphic": "graphic violence and gore",
}
"""OpenAI's names, and the words that are scored."""
HARMLESS = (
    "N/A", "The cat sat on the mat.", "What is the capital of France?", "I love this film, it is wonderful!",
    "Please send me the report by Friday.", "Bake the cake for forty minutes at 180 degrees.",
    "The parliament voted for the new law.", "How do I sort a list in Python?",
)
MARGIN = 0.5
"""Natural logarithms by which a text must be worse than the harmless ones for a score of 0.5."""


def kind_of(model: str, text: str, categories: Sequence[str]) -> ScoreSpec:
    """Scores the words of each of `categories` as what kind of text it is."""
    asked = f"Describe the kind of this text in a few words.\n\nText: {text}"
    return ScoreSpec(model=model, messages=(Message(role="user", content=asked),),
                     options=tuple(f"{CATEGORIES[name]}." for name in categories))


def worst_of(likelihoods: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The most of each category over harmless texts. (texts, categories) → (categories)."""
    return tuple(max(column) for column in zip(*likelihoods, strict=True))


def scores_of(
    likelihoods: Sequence[float], worst: Sequence[float], categories: Sequence[str],
) -> dict[str, float]:
    return {name: sigmoid(one - most - MARGIN)
            for name, one, most in zip(categories, likelihoods, worst, strict=True)}
