"""The real server with the starter text model, two tiny Mistral models, and tools of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.register_assert_rewrite("schema_checks", "schema_walks", "tool_studio")

from tool_studio import Studio  # noqa: E402


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[Studio]:
    """One server for all tests of this folder. It ends in order, and has had no fault of its own."""
    served = Studio(tmp_path_factory.mktemp("structured"), starter_text)
    try:
        yield served
    finally:
        status = served.stop()
    assert status == 0
    assert "Traceback" not in served.log


@pytest.fixture
def http(studio: Studio) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=studio.url, timeout=120) as client:
        yield client
