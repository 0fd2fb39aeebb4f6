"""A PostgreSQL server for tests and benchmarks: a temporary folder, a Unix socket, no network, an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

INSTALL_SECONDS = 180
START_SECONDS = 60


class NoPostgres(Exception):
    """Why there is no server here."""


def binaries() -> Path | None:
    """The folder of `postgres` and `initdb` of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def install() -> None:
    """Install Debian's package where this process may. Raises NoPostgres."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoPostgres("PostgreSQL is not installed, and only root on Debian could do that (apt install postgresql)")
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends", "postgresql"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS,
                              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except subprocess.TimeoutExpired:
        raise NoPostgres("PostgreSQL is not installed, and its installation took too long") from None
    if done.returncode:
        raise NoPostgres(f"PostgreSQL could not be installed: {done.stderr.strip().splitlines()[-1:]}")


class PostgresServer:
    """Started by `start`, ended by `stop`. Raises NoPostgres where there can be none.

    Args:
        durable: as in production; without, commits do not wait for the disk.
    """

    def __init__(self, *, durable: bool = False) -> None:
        if binaries() is None:
            install()
        self._bin = binaries()
        if self._bin is None:
            raise NoPostgres("PostgreSQL was installed, but its programs are not where they should be")
        self.folder = Path(tempfile.mkdtemp(prefix="diptych-pg-"))
        self._durable = durable
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def start(self) -> None:
        data = self.folder / "data"
        made = subprocess.run(
            [self._bin / "initdb", "-D", data, "-U", "diptych", "-A", "trust", "-E", "UTF8", "--no-locale",
             "--no-sync"],
            capture_output=True, text=True, timeout=START_SECONDS, cwd=self.folder, **self._user)
        if made.returncode:
            raise NoPostgres(f"initdb failed: {made.stderr.strip()[-300:]}")
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "100"}
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._bin / "postgres", "-D", data, *flags], stdin=subprocess.DEVNULL,
                                             stdout=log, stderr=log, cwd=self.folder, **self._user)
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.execute("SELECT 1")
                return
            except Exception:
                time.sleep(0.05)
        log_text = (self.folder / "log").read_text(errors="replace")
        self.stop()
        raise NoPostgres(f"PostgreSQL did not start: {log_text[-300:]}")

    def execute(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(f"host={self.folder} user=diptych dbname={database}", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def create(self, template: str = "template1") -> str:
        """A new database; its name."""
        self._count += 1
        name = f"db{self._count}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://diptych@/{name}?host={self.folder}"

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
