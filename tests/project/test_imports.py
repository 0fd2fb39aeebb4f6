"""What the server loads when it starts: every part of a library that few requests need would delay all starts."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from diptych.core.imports import SPARED, importing

LATER = ("torch", "rich", "pygments", "pydantic.v1", "yaml", "xml.etree.ElementTree", "llguidance", "alembic",
         "sqlalchemy.dialects.postgresql", "mistral_common", "mcp")
SERVER = f"""
import sys
from diptych.core.imports import SPARED, importing
with importing(*SPARED):
    import diptych.app
sys.exit(" ".join(name for name in {LATER!r} if name in sys.modules) or 0)
"""


def test_the_server_starts_without_what_few_need() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_hides_and_shows_again() -> None:
    assert "this" not in sys.modules
    with pytest.raises(ModuleNotFoundError), importing("this", *SPARED):
        assert not gc.isenabled()
        import this  # noqa: F401
    assert "this" not in sys.modules
    assert gc.isenabled()
