"""A wall clock that jumps, in both directions, while jobs wait and run."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from fault_studio import Studio, Undisturbed, opened

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


@pytest.fixture
def one(clock: Clock, tmp_path: Path, model_folder: Path) -> Iterator[Studio]:
    """A studio that lives by that clock."""
    with opened(tmp_path / "data", model_folder) as studio:
        yield studio


def test_clock_jumps_both_ways(
    one: Studio, clock: Clock, undisturbed: Undisturbed, model_folder: Path,
) -> None:
    calm = {seed: undisturbed(seed=seed) for seed in (3, 30)}
    running, waiting = one.submit(), one.submit(seed=30)
    follower = one.follow(running)
    one.first_picture(running)
    clock.jump(DAY)
    later = one.submit(seed=30)
    assert ahead(one, later) > DAY / 2  # the gateway did see the jump
    assert one.chat()
    clock.jump(-DAY)
    earlier = one.submit()
    assert ahead(one, earlier) < -DAY / 2
    for id, seed in ((running, 3), (waiting, 30), (later, 30), (earlier, 3)):
        job = one.ended(id)
        assert one.hashes(job) == calm[seed]
        assert job["attempts"] == 1
    assert follower.told() == [0, 1, 2, 3]
    order = [job["id"] for job in one.http.get("/api/jobs").json()["jobs"]]
    assert order == [earlier, later, waiting, running]  # newest first, whatever their clocks said
    a_failed_load_is_tried_again_although_the_clock_went_back(one, clock, model_folder)


def a_failed_load_is_tried_again_although_the_clock_went_back(
    one: Studio, clock: Clock, model_folder: Path,
) -> None:
    torn = one.data_dir / "models" / "torn"
    shutil.copytree(model_folder / "tiny", torn)
    unet = torn / "unet" / "config.json"
    words = unet.read_text()
    unet.write_text(words.replace('"cross_attention_dim": 16', '"cross_attention_dim": 32'))
    failed = one.ended(one.submit(model="torn", count=1))
    assert failed["state"] == "failed"
    assert "could not be loaded" in failed["error"]
    clock.jump(-2 * DAY)
    unet.write_text(words)
    one.until(lambda: one.ended(one.submit(model="torn", count=1, steps=2))["state"] == "succeeded", 90)
