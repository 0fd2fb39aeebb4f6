"""Who may share a runner with a job whose attempts ended in its runner's death; and a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.schedule import suspects
from diptych.schedule.suspects import Disk, Suspects


def test_last_attempt_is_made_alone() -> None:
    some = Suspects()
    some.learn("a", 1, 3, tried_again=True)
    assert some.bears("a", "m", ["b"])  # its second of three is made in company, as the first
    some.learn("a", 2, 3, tried_again=True)
    assert not some.bears("a", "m", ["b"])
    assert not some.bears("c", "m", ["b"])  # nobody goes in before it
    assert some.bears("c", "other", [])
    assert some.bears("a", "m", [])
    assert not some.bears("c", "m", ["a"])
    some.learn("a", 3, 3, tried_again=False)
    assert some.bears("c", "m", ["b"])


def test_suspect_that_is_gone_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Suspects()
    some.learn("a", 1, 2, tried_again=True)
    assert not some.bears("a", "m", ["b"])
    assert not some.bears("c", "m", ["b"])
    monkeypatch.setattr(suspects, "STALE_SECONDS", -1.0)
    assert some.bears("c", "m", ["b"])


def test_disk_is_asked_only_after_it_was_full(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "gone")
    assert disk.room()  # not asked: nothing has failed
    disk.full = True
    assert not disk.room()
    (tmp_path / "gone").mkdir()
    assert disk.room()
    assert not disk.full
    assert not list((tmp_path / "gone").iterdir())
