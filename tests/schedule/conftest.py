"""Studios on a data folder of small model files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from dispatch_studio import Open, Studio

from diptych.settings import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the image models `paint`, `other`, `broken`, `crash`, `crash-once`, the text model `talk`."""
    here = Path(__file__).parent
    monkeypatch.syspath_prepend(here.parent / "library")
    from model_files import LLAMA, gguf, write_pipeline

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")])))
    models = tmp_path / "models"
    for number, name in enumerate(("paint", "other", "broken", "crash", "crash-once")):
        write_pipeline(models / name, fill=number + 1)
    (models / "talk.gguf").write_bytes(gguf(LLAMA))
    return tmp_path


@pytest.fixture
async def open_studio(data_dir: Path) -> AsyncIterator[Open]:
    """Opens studios on the same data folder; they are closed when the test ends."""
    async with AsyncExitStack() as stack:
        async def build(**settings: Any) -> Studio:
            values: dict[str, Any] = {"warm_spare": False, "threads": 1, "runner_start_seconds": 60, **settings}
            return await stack.enter_async_context(Studio(Settings(data_dir=data_dir, **values)))

        yield build
