"""Real gateways and runners to be killed, stopped and starved, and what an undisturbed one paints."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
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

Open = Callable[..., Studio]


@pytest.fixture
def studio(tmp_path: Path, model_folder: Path) -> Iterator[Open]:
    """Opens studios: gateways on a data folder each. They are ended with the test, and none of them met a fault that
    it does not know."""
    opened: list[Studio] = []

    def build(data_dir: Path | None = None, start: bool = True, **settings: Any) -> Studio:
        values = {"model_dirs": [str(model_folder)], "warm_spare": False, "image_batch": 1, "threads": 1,
                  "text_context": 256, "text_slots": 2, **settings}
        opened.append(Studio(data_dir or tmp_path / f"data{len(opened)}", **values))
        if start:
            opened[-1].start()
        return opened[-1]

    yield build
    for one in opened:
        one.close()
        assert "Traceback" not in one.log, one.log[-4000:]


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path,
) -> Iterator[Callable[[dict[str, Any]], list[str]]]:
    """The pictures of a request as a gateway makes them that nothing happens to: a hash of the pixels of each."""
    known: dict[str, list[str]] = {}
    calm = Studio(tmp_path_factory.mktemp("undisturbed") / "data", model_dirs=[str(model_folder)], warm_spare=False,
                  image_batch=1, threads=1)

    def paint(body: dict[str, Any]) -> list[str]:
        key = repr(sorted(body.items()))
        if key not in known:
            if calm.process is None:
                calm.start()
            known[key] = calm.hashes(calm.ended(calm.submit(**body)))
        return known[key]

    yield paint
    calm.close()
