"""The models that ship with Diptych, and the library of a data folder without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.core.cards import Card
    from diptych.settings import Settings

STARTERS = {"text": "starter-text", "image": "starter"}
ADVICE = {
    "starter-text": "get the small text model with: diptych models pull starter-text",
    "starter": "the small image model lies in the folder starter/ of the repository: run this from a complete "
               "checkout, or make it with tools/starter",
}


def cards_here(settings: Settings) -> list[Card]:
    """All models in the library of these settings."""
    raise NotImplementedError


def pull_here(settings: Settings, model: str) -> Path:
    """Get a model into the library of these settings; where it is."""
    raise NotImplementedError


def damage(card: Card) -> str | None:
    """What is wrong with a model's files, or None."""
    path = Path(card.path)
    if not path.exists():
        return f"{path} is gone"
    return None
