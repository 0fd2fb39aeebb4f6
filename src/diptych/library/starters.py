"""The small models a new user begins with."""

from __future__ import annotations

from pathlib import Path

from diptych.library.identify import MODEL_INDEX
from diptych.settings import Settings

STARTER = "starter"
"""Image model; part of the repository."""
STARTER_CANNY = "starter-canny"
"""ControlNet of the image model; part of the repository, too."""
STARTER_TEXT = "starter-text"
"""Text model; `pull` puts it into a folder of this name."""


def find_starter(settings: Settings) -> Path | None:
    """Folder of the image model that ships: beside `src` in a checkout, or in the data folder; None if neither."""
    return _found(settings, STARTER, MODEL_INDEX)


def find_starter_canny(settings: Settings) -> Path | None:
    """Folder of its ControlNet, in the same places."""
    return _found(settings, STARTER_CANNY, "config.json")


def _found(settings: Settings, name: str, file: str) -> Path | None:
    checkout = Path(__file__).resolve().parents[3] / name
    return next((folder for folder in (checkout, settings.models_dir / name) if (folder / file).is_file()), None)
