"""One real server for clients that nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server import serving


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of one server for all tests of this folder. It has had no fault of its own."""
    with serving(tmp_path_factory.mktemp("clients") / "data", {"starter-text": starter_text.parent}) as url:
        yield url
