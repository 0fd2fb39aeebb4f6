"""Where the server of a data folder listens: `server.json`, written by the server, read by the other commands.

It also holds a key of this very server process, so that who may read the data folder's private files needs no other.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from diptych.cli.errors import CliError

FILE = "server.json"


@dataclass(frozen=True)
class Address:
    """`url` without a slash at its end; `pid` of the process that serves it; `key`: what it takes as its owner's."""

    url: str
    pid: int
    key: str | None = field(default=None, repr=False)


def read_address(data_dir: Path) -> Address | None:
    """The running server's address; None when there is no file, or a stale one: its process or its port is gone."""
    try:
        found = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        address = Address(url=str(found["url"]).rstrip("/"), pid=int(found["pid"]), key=found.get("key"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if _alive(address.pid) and _listens(address.url) else None


def _alive(pid: int) -> bool:
    import psutil

    return pid > 0 and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        return False
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def published(data_dir: Path, url: str, key: str | None = None) -> Iterator[None]:
    """Write the address file, for this user's eyes only, whole or not at all; take it away at the end if it is ours."""
    file = data_dir / FILE
    mine = Address(url=url, pid=os.getpid(), key=key)
    draft = file.with_suffix(f".{mine.pid}.tmp")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as made:
            made.write(json.dumps(asdict(mine)) + "\n")
        draft.replace(file)
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        try:
            if json.loads(file.read_text(encoding="utf-8")).get("pid") == mine.pid:
                file.unlink()
        except (OSError, ValueError, AttributeError):
            pass  # gone or replaced by another server: not ours any more


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for one server process; the lock goes with the process, however it ends.

    Raises:
        CliError: another server holds it, or the folder cannot be made or written.
    """
    file = data_dir / "server.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+b")
    except OSError as error:
        raise CliError(f"the data folder {data_dir} cannot be used: {error.strerror or error}") from error
    with handle:
        if not _lock(handle):
            address = read_address(data_dir)
            where = f" at {address.url} (process {address.pid})" if address else ""
            raise CliError(f"a Diptych server already runs on the data folder {data_dir}{where}; "
                           "use it, stop it, or give another folder with --data-dir")
        yield


def _lock(handle: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
