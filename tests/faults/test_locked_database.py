"""The database locked by another process for longer than SQLite waits for it."""

from __future__ import annotations

import sqlite3
import threading
import time

import httpx
from fault_studio import BODY, Studio, Undisturbed

LOCKED_SECONDS = 12.0
"""Over the ten seconds after which SQLite gives up."""


def lock(studio: Studio, seconds: float) -> threading.Thread:
    """Hold the write lock from another connection; returns once it is held."""
    held = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(studio.data_dir / "diptych.sqlite3", isolation_level=None, timeout=30)
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(30)
    return thread


def test_locked_in_mid_picture(studio: Studio, undisturbed: Undisturbed) -> None:
    calm, hello = undisturbed(), studio.chat()
    id = studio.submit()
    follower = studio.follow(id)
    studio.first_picture(id)
    holder = lock(studio, LOCKED_SECONDS)
    refused = studio.http.post("/api/jobs", json=BODY)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "database"
    assert holder.is_alive(), "it was refused for another reason than the lock"
    assert studio.chat() == hello  # chat needs no database
    assert studio.answers()
    holder.join()
    job = studio.ended(id)
    assert studio.hashes(job) == calm
    assert job["attempts"] == 1
    assert follower.told() == [0, 1, 2, 3]
    newest = studio.http.get("/api/jobs", params={"limit": 1}).json()["jobs"]
    assert [job["id"] for job in newest] == [id]  # what was refused is not there

    holder = lock(studio, 2.0)
    answer = httpx.post(f"{studio.url}/api/jobs", json={**BODY, "count": 1, "steps": 2}, timeout=60)
    assert answer.status_code == 201  # for a moment's lock it waits
    holder.join()
    assert studio.ended(answer.json()["id"])["state"] == "succeeded"
