"""What tests of several parts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def starter_text() -> Path:
    """The starter text model's GGUF file, pulled once per machine into `$DIPTYCH_TEST_CACHE`."""
    from diptych.library.pull import pull
    from diptych.settings import Settings

    cache = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
    return Path(pull("starter-text", Settings(data_dir=cache)).path)
