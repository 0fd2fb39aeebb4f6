"""What tests of several parts share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
