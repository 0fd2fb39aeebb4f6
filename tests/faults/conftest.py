"""Real gateways and runners to be killed, stopped and starved, and what an undisturbed one paints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent / "bench"))  # the gateway that can be killed and started again is the benchmarks'
sys.path.insert(0, str(Path(__file__).parent))

from fault_studio import Studio, Undisturbed, opened  # noqa: E402


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
