"""Real gateways and runners to be killed, stopped and starved, and what an undisturbed one paints."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent / "bench"))  # the gateway that can be killed and started again is the benchmarks'
sys.path.insert(0, str(Path(__file__).parent))

from fault_studio import Studio  # noqa: E402


def _api_fixtures() -> Any:
    """The fixtures of the tests of the HTTP API, which belong to their folder."""
    spec = importlib.util.spec_from_file_location("api_fixtures", TESTS / "api" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_api = _api_fixtures()
model_folder, until = _api.model_folder, _api.until

Undisturbed = Callable[..., list[str]]
SETTINGS: dict[str, Any] = {
    "warm_spare": False, "image_batch": 1, "threads": 1, "text_context": 256, "text_slots": 2}


@contextmanager
def opened(data_dir: Path, model_folder: Path, **settings: Any) -> Iterator[Studio]:
    """A studio with both small models. It is ended in order, and met no fault that it does not know."""
    one = Studio(data_dir, **{**SETTINGS, "model_dirs": [str(model_folder)], **settings})
    one.start()
    try:
        yield one
    finally:
        one.close()
    assert "Traceback" not in one.log, one.log[-4000:]


@pytest.fixture(scope="session")
def lasting(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Studio]:
    with opened(tmp_path_factory.mktemp("shared") / "data", model_folder) as one:
        yield one


@pytest.fixture
def studio(lasting: Studio) -> Studio:
    """One studio for all tests that need no settings of their own; it has to survive them all."""
    lasting.calm()
    return lasting


@pytest.fixture
def undisturbed(lasting: Studio) -> Undisturbed:
    """The pictures of a request when nothing happens: a hash of the pixels of each. Made at the first question, so a
    test asks before it disturbs anything."""
    return lasting.undisturbed
