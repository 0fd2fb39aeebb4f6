"""Stores on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.store.jobs import JobStore


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("new_postgres_url")
        return make()
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[[], JobStore]]:
    opened: list[JobStore] = []

    def build() -> JobStore:
        store = JobStore(url)
        opened.append(store)
        store.migrate()
        return store

    yield build
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], JobStore]) -> JobStore:
    return open_store()
