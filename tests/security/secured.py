"""A real `diptych serve` in a process of its own, its keys, and clients of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from diptych.cli.address import read_address


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DIPTYCH_", "XDG_", "OPENAI_"))}
    return {**clean, "HOME": str(home), "COLUMNS": "200", "TERM": "dumb", **more}


def diptych(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end with `home/data` as its data folder."""
    return subprocess.run(
        [sys.executable, "-m", "diptych", *map(str, arguments)], text=True, capture_output=True, timeout=120,
        stdin=subprocess.DEVNULL, env=environment(home, DIPTYCH_DATA_DIR=str(home / "data"), **more))


def create_key(home: Path, name: str, *options: object) -> str:
    """The text of a new key."""
    done = diptych(home, "key", "create", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Secured:
    """The server of `home/data`; `settings` become environment variables."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home, self.data_dir = home, home / "data"
        values = {"warm_spare": False, "threads": 1, **settings}
        variables = {f"DIPTYCH_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
                     for key, value in values.items()}
        self.log_file = home / "serve.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "diptych", "serve", "--port", "0", "--data-dir", str(self.data_dir)],
                env=environment(home, **variables), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.url = self._wait()
        self.port = int(self.url.rpartition(":")[2])

    def _wait(self) -> str:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            address = read_address(self.data_dir)
            if address is not None and address.pid == self.process.pid:
                return address.url
            time.sleep(0.05)
        raise AssertionError(self.log_file.read_text())

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        given = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, timeout=120, headers={**given, **headers})

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


def until(true: Any, seconds: float = 10) -> Any:
    """Repeat a question until its answer is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
