"""What tests of several parts share."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from diptych.core.imports import importing

if TYPE_CHECKING:
    from postgres_server import PostgresServer


TESTS = Path(__file__).parent
CACHE = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
LONG = (
    "faults/test_bench_scripts.py", "faults/test_clock.py", "api/test_api_durability.py",
    "observe/test_observe_shutdown.py", "faults/test_disk_full.py", "faults/test_kills.py",
    "api/test_api_schemathesis.py", "project/test_static.py",
    "faults/", "cli/", "api/", "image", "schedule/", "text_transformers/", "observe/")
"""Files that take long come first, so that no process is left with one when the other has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        return next((place for place, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing is garbage collected while all tests and what they need is imported."""
    with importing():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> None:
    """Each client of httpx reads the certificates of all authorities, which takes longer than most questions to a
    server. What it makes of them may be shared."""
    transports: Any = httpx._transports.default
    transports.create_ssl_context = functools.cache(transports.create_ssl_context)


@pytest.fixture(scope="session")
def starter_text() -> Path:
    """The starter text model's GGUF file, pulled once per machine into `$DIPTYCH_TEST_CACHE`."""
    from diptych.library.pull import pull
    from diptych.settings import Settings

    return Path(pull("starter-text", Settings(data_dir=CACHE)).path)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """An image model with random weights, made once per machine. Not to be changed: tests that do copy it first."""
    script = TESTS / "cli" / "tiny_model.py"
    versions = "".join(importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers"))
    key = hashlib.sha256(script.read_bytes() + versions.encode()).hexdigest()[:12]
    folder = CACHE / "tiny" / f"image-{key}"
    if not folder.is_dir():
        work = folder.with_name(f".{folder.name}.{os.getpid()}")
        subprocess.run([sys.executable, str(script), str(work)], check=True, capture_output=True, timeout=120,
                       env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            work.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(work)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, starter_text: Path) -> Path:
    """`tiny`, an image model with random weights, and `starter-text`."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_model, folder / "tiny")
    (folder / "starter-text").symlink_to(starter_text.parent)
    return folder


@pytest.fixture
def until() -> Callable[..., Any]:
    """Repeat a question until its answer is true."""

    def wait(true: Callable[[], Any], seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := true():
                return found
            time.sleep(0.05)
        raise AssertionError("it did not happen in time")

    return wait


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of these tests; skips where there can be none."""
    from postgres_server import NoPostgres, PostgresServer

    try:
        server = PostgresServer()
        server.start()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _migrated(postgres: PostgresServer) -> str:
    from diptych.store.database import Database

    name = postgres.create()
    database = Database(postgres.url(name))
    database.migrate()
    database.close()
    return name


@pytest.fixture(scope="session")
def new_postgres_url(postgres: PostgresServer, _migrated: str) -> Callable[[], str]:
    """Makes a database with empty tables on the server of these tests; returns its URL."""
    return lambda: postgres.url(postgres.create(_migrated))
