"""The right to be the gateway of a data folder: a lock of the operating system, which goes with its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from diptych.core.errors import Unavailable

FILE = "gateway.lock"
_WORDS = 100
"""Bytes of what the holder writes into its lock file; the lock itself is on a byte behind them."""


class Seat:
    """Held from `take` until `leave` or the end of the process, however it ends. Tells who sat here before.

    Args:
        folder: the data folder.
        url: of the database; the file of an SQLite database has a lock of its own, since another data folder may name
            the same file.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._files = [folder / FILE, *_beside_database(url)]
        self._held: list[IO[bytes]] = []

    def take(self, id: str) -> str | None:
        """Sit down as gateway `id`; the id of the one before, who is surely gone. Raises Unavailable: it is taken."""
        if self._held:
            return None
        self._lock_all()
        try:
            before = self._words().split()[:1]
            self._write(id)
        except BaseException:
            self.leave()
            raise
        return before[0].decode("ascii", "replace") if before else None

    def check(self) -> None:
        """Raises Unavailable when it is taken now."""
        if not self._held:
            self._lock_all()
            self.leave()

    def leave(self) -> None:
        while self._held:
            self._held.pop().close()

    def _lock_all(self) -> None:
        try:
            for file in self._files:
                self._held.append(_locked(file))
        except BaseException:
            self.leave()
            raise

    def _words(self) -> bytes:
        self._held[0].seek(0)
        return self._held[0].read(_WORDS)

    def _write(self, id: str) -> None:
        for handle in self._held:
            handle.seek(0)
            handle.truncate()
            handle.write(f"{id} process {os.getpid()}\n".encode("ascii"))
            handle.flush()


def _beside_database(url: str) -> list[Path]:
    try:
        parts = make_url(url)
    except ArgumentError:
        return []
    if parts.get_backend_name() != "sqlite" or not parts.database or parts.database == ":memory:":
        return []
    return [Path(parts.database + ".lock")]


def _locked(file: Path) -> IO[bytes]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    except OSError as error:
        raise Unavailable(f"the lock file {file} cannot be opened: {error.strerror or error}") from error
    try:
        _lock(handle)
    except OSError as error:
        handle.close()
        raise Unavailable(
            f"another Diptych server works on {file.parent} ({_holder(file)}); use it, stop it, or give another data "
            "folder (several servers can share one PostgreSQL database, each with a data folder of its own)",
            code="data_folder_taken") from error
    return handle


def _lock(handle: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        handle.seek(_WORDS)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        handle.seek(0)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(file: Path) -> str:
    words = file.read_bytes()[:_WORDS].split()
    return " ".join(word.decode("ascii", "replace") for word in words[1:]) or "process unknown"
