"""The database locked by another process for longer than SQLite waits for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from fault_studio import BODY, Studio

from conftest import Open

LOCKED_SECONDS = 12.0
"""Over the ten seconds after which SQLite gives up."""


def lock(one: Studio, seconds: float) -> threading.Thread:
    """Hold the write lock from another connection; returns once it is held."""
    held = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(one.data_dir / "diptych.sqlite3", isolation_level=None, timeout=30)
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(30)
    return thread


def test_locked_in_mid_picture(studio: Open, undisturbed: Callable[[dict[str, Any]], list[str]]) -> None:
    one = studio()
    hello = one.chat()
    id = one.submit()
    follower = one.follow(id)
    one.first_picture(id)
    holder = lock(one, LOCKED_SECONDS)
    refused = one.http.post("/api/jobs", json=BODY)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "database"
    assert holder.is_alive(), "it was refused for another reason than the lock"
    assert one.chat() == hello  # chat needs no database
    assert one.answers()
    holder.join()
    job = one.ended(id)
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 1
    assert follower.told() == [0, 1, 2, 3]
    assert [job["id"] for job in one.http.get("/api/jobs").json()["jobs"]] == [id]  # what was refused is not there
    one.ended(one.submit(count=1, steps=2))


def test_locked_for_a_moment(studio: Open) -> None:
    one = studio()
    holder = lock(one, 2.0)
    answer = httpx.post(f"{one.url}/api/jobs", json={**BODY, "count": 1, "steps": 2}, timeout=60)
    assert answer.status_code == 201  # it waited
    holder.join()
    assert one.ended(answer.json()["id"])["state"] == "succeeded"
