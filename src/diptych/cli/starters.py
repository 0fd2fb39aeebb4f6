"""The models that ship with Diptych, and the library of a data folder without a server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.errors import CliError

if TYPE_CHECKING:
    from diptych.core.cards import Card
    from diptych.settings import Settings

STARTERS = {"text": "starter-text", "image": "starter"}
ADVICE = {
    "starter-text": "get the small text model with: diptych models pull starter-text",
    "starter": "the small image model lies in the folder starter/ of the repository: run this from a complete "
               "checkout, or name your own folder of models with the setting model_dirs",
}


def cards_here(settings: Settings) -> tuple[list[Card], list[str]]:
    """All models in the library of these settings that can be used, and a line for each that cannot."""
    from diptych.library import Library

    library = Library(settings)
    return library.cards(), library.problems()


def pull_here(settings: Settings, model: str) -> Path:
    """Get a model into the library of these settings; where it is. What happens is told on standard error.

    Raises:
        CliError: there is no such model, or it could not be got; says what to do.
    """
    from diptych.cli.output import say
    from diptych.core.errors import DiptychError
    from diptych.library import pull

    try:
        return Path(pull(model, settings, say).path)
    except DiptychError as error:
        raise CliError(error.message) from error


def damage(card: Card) -> str | None:
    """What is wrong with the content of a starter model's file, or None. The library has read its headers already."""
    from diptych.library.pull import GGUF_SHA256

    path = Path(card.path)
    if card.id != STARTERS["text"] or not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return None if digest.hexdigest() == GGUF_SHA256 else f"{path} has another SHA-256 than the published file"
