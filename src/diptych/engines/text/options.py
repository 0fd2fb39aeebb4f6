"""What the loads of all text engines have in common."""

from __future__ import annotations

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import LoadRequest


def vectors_only(card: Card) -> bool:
    """Whether the model makes vectors or scores, and no text."""
    return bool(card.tasks) and "chat" not in card.tasks


def whole(request: LoadRequest, name: str, default: int, least: int, most: int) -> int:
    """A whole number from the options; raises InvalidRequest on anything else."""
    value = request.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most or value % 1:
        raise InvalidRequest(f"option {name} is {value!r}, not a whole number from {least} to {most}", param=name)
    return int(value)
