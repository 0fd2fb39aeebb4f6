"""What tests of several parts share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from postgres_server import PostgresServer


@pytest.fixture(scope="session")
def starter_text() -> Path:
    """The starter text model's GGUF file, pulled once per machine into `$DIPTYCH_TEST_CACHE`."""
    from diptych.library.pull import pull
    from diptych.settings import Settings

    cache = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
    return Path(pull("starter-text", Settings(data_dir=cache)).path)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Path:
    """`tiny`, an image model with random weights, and `starter-text`."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(Path(__file__).parent / "cli" / "tiny_model.py"), str(folder / "tiny")],
                   check=True, capture_output=True, timeout=120)
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
