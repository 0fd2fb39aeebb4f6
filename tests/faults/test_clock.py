"""A wall clock that jumps, in both directions, while jobs wait and run."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fault_studio import BODY, Studio

from conftest import Open

DAY = 86400.0


class Clock:
    """`jump` sets how far ahead of the real time all processes are that read this file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("d", 0.0))

    def jump(self, seconds: float) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    hook = str(Path(__file__).with_name("clock_hook"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [hook, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FAULT_CLOCK", str(tmp_path / "clock"))
    return Clock(tmp_path / "clock")


def ahead(one: Studio, id: str) -> float:
    """How far ahead of the real time the job's record was begun."""
    created = datetime.fromisoformat(one.job(id)["created_at"])
    return (created - datetime.now(timezone.utc)).total_seconds()


def test_clock_jumps_both_ways(
    studio: Open, clock: Clock, undisturbed: Callable[[dict[str, Any]], list[str]],
) -> None:
    one = studio()
    running, waiting = one.submit(), one.submit(seed=30)
    follower = one.follow(running)
    one.first_picture(running)
    clock.jump(DAY)
    later = one.submit(seed=300)
    assert ahead(one, later) > DAY / 2  # the gateway did see the jump
    assert one.chat()
    clock.jump(-DAY)
    earlier = one.submit()
    assert ahead(one, earlier) < -DAY / 2
    for id, seed in ((running, 3), (waiting, 30), (later, 300), (earlier, 3)):
        job = one.ended(id)
        assert one.hashes(job) == undisturbed({**BODY, "seed": seed})
        assert job["attempts"] == 1
    assert follower.told() == [0, 1, 2, 3]
    order = [job["id"] for job in one.http.get("/api/jobs").json()["jobs"]]
    assert order == [earlier, later, waiting, running]  # newest first, whatever their clocks said


def test_failed_load_is_tried_again_although_the_clock_went_back(
    studio: Open, clock: Clock, model_folder: Path, tmp_path: Path,
) -> None:
    folder = tmp_path / "more" / "torn"
    shutil.copytree(model_folder / "tiny", folder)
    words = (folder / "vae" / "config.json").read_text()
    (folder / "vae" / "config.json").write_text(words.replace('"latent_channels": 4', '"latent_channels": 8'))
    one = studio(model_dirs=[str(folder.parent)])
    failed = one.ended(one.submit(model="torn", count=1))
    assert failed["state"] == "failed"
    assert "could not be loaded" in failed["error"]
    clock.jump(-DAY)
    (folder / "vae" / "config.json").write_text(words)
    one.until(lambda: one.ended(one.submit(model="torn", count=1, steps=2))["state"] == "succeeded", 90)
