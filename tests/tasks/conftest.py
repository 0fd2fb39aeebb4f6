"""The real server in a process of its own with the starter text model and a tiny Mistral model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tiny

from model_server import serving


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of one server for all tests of this folder. It has had no fault of its own."""
    models = {"starter-text": starter_text.parent, "mistral": tiny.mistral("v7").parent}
    with serving(tmp_path_factory.mktemp("tasks") / "data", models) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def mistral(url: str) -> str:
    """id of the tiny Mistral model (random weights, the real Tekken vocabulary)."""
    models = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    return next(str(model["id"]) for model in models if "mistral" in model["id"])
