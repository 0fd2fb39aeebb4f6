"""A disk that is full: the one of the pictures, and the one of the database."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_studio import BODY, Studio, Undisturbed, opened

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
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all room that is left on the disk of `folder`."""
    with (folder / BALLAST).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def make_room(folder: Path) -> None:
    (folder / BALLAST).unlink()


@pytest.fixture
def two_disks(disk: Disk, tmp_path: Path, model_folder: Path) -> Iterator[Studio]:
    """A studio with its database on one small disk and its pictures on another."""
    data = disk(tmp_path / "data", 4 * 1024 * 1024)
    disk(data / "artifacts", 8 * 1024 * 1024)
    with opened(data, model_folder) as studio:
        yield studio


def test_full_disks(two_disks: Studio, undisturbed: Undisturbed) -> None:
    calm, others = undisturbed(), undisturbed(seed=30)
    hello = two_disks.chat()
    pictures_do_not_fit(two_disks, hello, calm, others)
    database_does_not_fit(two_disks, hello, calm)


def pictures_do_not_fit(studio: Studio, hello: str, calm: list[str], others: list[str]) -> None:
    artifacts = studio.data_dir / "artifacts"
    id = studio.submit()
    follower = studio.follow(id)
    studio.first_picture(id)
    before = studio.stamps(id)
    fill(artifacts)
    studio.until(lambda: "No space left" in studio.log)
    assert studio.chat() == hello
    waiting = studio.submit(seed=30)
    assert not list(artifacts.rglob("*.part"))
    make_room(artifacts)
    job = studio.ended(id)
    assert studio.hashes(job) == calm
    assert job["attempts"] == 1  # a full disk is not the job's fault
    assert {index: studio.stamps(id)[index] for index in before} == before
    assert follower.told() == [0, 1, 2, 3]
    assert studio.hashes(studio.ended(waiting)) == others


def database_does_not_fit(studio: Studio, hello: str, calm: list[str]) -> None:
    id = studio.submit()
    follower = studio.follow(id)
    studio.first_picture(id)
    fill(studio.data_dir)
    refused = studio.until(
        lambda: (answer := studio.http.post("/api/jobs", json=BODY)).status_code != 201 and answer)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "database"
    assert studio.chat() == hello
    make_room(studio.data_dir)
    job = studio.ended(id)
    assert studio.hashes(job) == calm
    assert follower.told() == [0, 1, 2, 3]
    for job in studio.http.get("/api/jobs").json()["jobs"]:  # what was accepted until the disk was full
        assert studio.ended(job["id"])["state"] == "succeeded"
