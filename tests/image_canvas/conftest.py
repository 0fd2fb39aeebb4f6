"""One real server with a tiny image model for all tests of this folder that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from canvas_pictures import BODY_LIMIT, PICTURE_LIMIT

from api_server import Server, served


@pytest.fixture(scope="session")
def canvas_server(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("canvas") / "data"
    data.mkdir()
    (data / "models").symlink_to(model_folder)
    with served(data, max_picture_body_bytes=BODY_LIMIT, max_image_bytes=PICTURE_LIMIT, warm_spare=False) as server:
        yield server


@pytest.fixture
def http(canvas_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=canvas_server.url, timeout=120) as client:
        yield client
