"""One engine with the starter model for all tests of finishing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from image_studio import Studio
from PIL import Image

STARTER = Path(__file__).parents[2] / "starter"


@pytest.fixture(scope="session")
def atelier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    torch.set_num_threads(1)
    studio = Studio(STARTER, tmp_path_factory.mktemp("atelier"))
    yield studio
    studio.engine.close()


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Image.Image], tuple[str, dict[str, str]]]:
    """Stores a picture as the gateway does; its id, and what a request has under `files`."""
    def put(image: Image.Image) -> tuple[str, dict[str, str]]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        id = f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"
        file = tmp_path / f"{id[7:]}.png"
        file.write_bytes(buffer.getvalue())
        return id, {f"input:{id}": str(file)}

    return put
