"""Servers of the API's tests, watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api_server import Server, served


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Server]:
    """One server for the tests of this folder, with the models `tiny` and `starter-text`: what it has counted is not
    one file's alone. It ends in order, and has had no fault of its own."""
    with served(tmp_path_factory.mktemp("watched") / "data", model_dirs=[str(model_folder)], text_context=512,
                warm_spare=False, log_format="json") as server:
        yield server


@pytest.fixture
def http(watched: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=watched.url, timeout=120) as client:
        yield client
