"""Runner processes around the toy engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from toy_engine import ENGINE

from diptych.runners.local import Launcher
from diptych.settings import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
    return Settings(data_dir=tmp_path, warm_spare=False, runner_start_seconds=60)


@pytest.fixture
async def launcher(settings: Settings) -> AsyncIterator[Launcher]:
    launcher = Launcher(settings, engine_of=lambda card: ENGINE, spare_engine=ENGINE)
    yield launcher
    await launcher.close()
