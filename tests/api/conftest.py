"""The real server in a process of its own, with a tiny image model and the starter text model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api_server import MAX_BODY, Server, served

CONTEXT = 512


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Server]:
    """One server for all tests of this folder. It ends in order, and has had no fault of its own."""
    data = tmp_path_factory.mktemp("served") / "data"
    data.mkdir()
    (data / "models").symlink_to(model_folder)
    with served(data, max_body_bytes=MAX_BODY, max_picture_body_bytes=MAX_BODY, text_context=CONTEXT,
                text_slots=2) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
