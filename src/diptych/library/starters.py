"""The two small models a new user begins with."""

from __future__ import annotations

from pathlib import Path

from diptych.library.identify import MODEL_INDEX
from diptych.settings import Settings

STARTER = "starter"
"""Image model; part of the repository."""
STARTER_TEXT = "starter-text"
"""Text model; `pull` puts it into a folder of this name."""


def find_starter(settings: Settings) -> Path | None:
    """Folder of the image model that ships: beside `src` in a checkout, or in the data folder; None if neither."""
    checkout = Path(__file__).resolve().parents[3] / STARTER
    for folder in (checkout, settings.models_dir / STARTER):
        if (folder / MODEL_INDEX).is_file():
            return folder
    return None
