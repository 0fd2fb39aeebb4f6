"""`/health` and `/ready`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from api_server import Server
from diptych.api.observe.lifecycle import Lifecycle
from diptych.api.observe.ready import BEAT_SECONDS, Readiness
from diptych.library import Library
from diptych.runners.local import Launcher
from diptych.schedule.dispatcher import Dispatcher
from diptych.schedule.hub import Hub
from diptych.settings import Settings
from diptych.store.jobs import JobStore

Until = Callable[..., Any]


def test_ready(http: httpx.Client) -> None:
    answer = http.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": dict.fromkeys(
        ("accepting", "database", "dispatcher", "disk"), "ok")}


def test_a_locked_database_is_not_ready(http: httpx.Client, watched: Any, until: Until) -> None:
    other = sqlite3.connect(watched.data_dir / "diptych.sqlite3", isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    try:
        time.sleep(1.1)  # an answer may hold for a second
        answer = http.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"]["database"] != "ok"
        assert "database" in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "not_ready"
        began = time.monotonic()
        assert http.get("/health").status_code == 200
        assert time.monotonic() - began < 2
    finally:
        other.execute("ROLLBACK")
        other.close()
    until(lambda: http.get("/ready").status_code == 200)


def test_a_full_disk_is_not_ready(tmp_path: Path) -> None:
    served = Server(tmp_path / "data", warm_spare=False, min_free_bytes=2**60)
    try:
        served.wait()
        answer = httpx.get(f"{served.url}/ready")
        assert answer.status_code == 503
        assert {name for name, told in answer.json()["checks"].items() if told != "ok"} == {"disk"}
        assert "min_free_bytes" in answer.json()["error"]["message"]
    finally:
        assert served.stop() == 0


def test_a_dispatcher_whose_loop_stands_still_is_not_ready(tmp_path: Path) -> None:
    async def checks(age: float) -> dict[str, str]:
        settings = Settings(data_dir=tmp_path, warm_spare=False)
        settings.artifacts_dir.mkdir(exist_ok=True)
        store = JobStore(settings.url)
        await asyncio.to_thread(store.migrate)
        dispatcher = Dispatcher(settings, store, Library(settings), Launcher(settings), Hub())
        dispatcher.beat -= age
        lifecycle = Lifecycle(1.0)
        try:
            return await Readiness(settings, store.database, dispatcher, lifecycle).checks()
        finally:
            store.close()

    assert {*asyncio.run(checks(0.0)).values()} == {"ok"}
    age = BEAT_SECONDS + 5
    assert asyncio.run(checks(age))["dispatcher"] == f"its loop last came round {age:.0f} s ago"
