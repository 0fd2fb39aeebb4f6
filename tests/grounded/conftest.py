"""The real server in a process of its own with the starter text model; it is killed and started again by one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from grounded_server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("grounded"), starter_text.parent)
    made.start()
    try:
        yield made
        made.stop()
        assert "Traceback" not in made.log.read_text(errors="replace")
    finally:
        made.kill()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
