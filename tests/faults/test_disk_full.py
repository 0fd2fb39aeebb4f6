"""A disk that is full: the one of the pictures, and the one of the database."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_studio import BODY, Studio

from conftest import Open

Disk = Callable[[Path, int], Path]
BALLAST = "ballast"


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Mounts small disks of their own; skips where only an administrator may."""
    mounted: list[Path] = []

    def mount(folder: Path, size: int) -> Path:
        folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> None:
    """Take all room that is left on the disk of `folder`, but for so many bytes."""
    ballast = folder / BALLAST
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        if leave:
            file.truncate(max(0, file.tell() - leave))


def make_room(folder: Path) -> None:
    (folder / BALLAST).unlink()


def test_disk_of_the_pictures_is_full(
    studio: Open, disk: Disk, tmp_path: Path, undisturbed: Callable[[dict[str, Any]], list[str]],
) -> None:
    data = tmp_path / "data"
    artifacts = disk(data / "artifacts", 8 * 1024 * 1024)
    one = studio(data)
    hello = one.chat()
    id = one.submit()
    one.first_picture(id)
    before = one.stamps(id)
    fill(artifacts)
    one.until(lambda: "No space left" in one.log)
    assert one.chat() == hello
    waiting = one.submit(seed=30)
    assert not list(artifacts.rglob("*.part"))
    make_room(artifacts)
    job = one.ended(id)
    assert one.hashes(job) == undisturbed(BODY)
    assert {index: one.stamps(id)[index] for index in before} == before
    assert one.hashes(one.ended(waiting)) == undisturbed({**BODY, "seed": 30})


def test_disk_of_the_database_is_full(
    studio: Open, disk: Disk, tmp_path: Path, undisturbed: Callable[[dict[str, Any]], list[str]],
) -> None:
    data = disk(tmp_path / "data", 4 * 8 * 1024 * 1024)
    (tmp_path / "artifacts").mkdir()
    (data / "artifacts").symlink_to(tmp_path / "artifacts")
    one: Studio = studio(data)
    hello = one.chat()
    id = one.submit()
    follower = one.follow(id)
    one.first_picture(id)
    fill(data)
    refused = one.until(lambda: (answer := one.http.post("/api/jobs", json=BODY)).status_code != 201 and answer)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "database"
    assert one.chat() == hello
    make_room(data)
    job = one.ended(id)
    assert one.hashes(job) == undisturbed(BODY)
    assert follower.told() == [0, 1, 2, 3]
    for job in one.http.get("/api/jobs").json()["jobs"]:  # what was accepted until the disk was full
        assert one.ended(job["id"])["state"] == "succeeded"
