"""The real server in a process of its own, with settings of the tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

MAX_BODY = 256 * 1024
"""Bytes that the server of the API's tests takes."""
Until = Callable[[Callable[[], Any]], Any]
SERVE = """
import json, sys
from diptych.core.imports import SPARED, importing
with importing(*SPARED):
    from diptych.app import serve
    from diptych.settings import Settings
serve(Settings(**json.loads(sys.argv[1])))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Server:
    """`diptych.app.serve` with these settings."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir, self.port = data_dir, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = data_dir.parent / f"{data_dir.name}.log"
        values = {"data_dir": str(data_dir), "port": self.port, "threads": 1, **settings}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        self.started = time.perf_counter()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps(values)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**clean, "DIPTYCH_CONFIG": str(data_dir / "none.toml")})

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait(self, seconds: float = 60) -> float:
        """Until it answers; the seconds that took since its start."""
        while time.perf_counter() - self.started < seconds:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return time.perf_counter() - self.started
            except httpx.TransportError:
                assert self.process.poll() is None, self.log
                time.sleep(0.02)
        raise AssertionError(self.log)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(40)
        finally:
            self.process.kill()
            self.process.wait()


@contextmanager
def served(data_dir: Path, **settings: Any) -> Iterator[Server]:
    """A server that answers. It ends in order, and has had no fault of its own."""
    server = Server(data_dir, **settings)
    try:
        server.wait()
        yield server
    finally:
        status = server.stop()
    assert status == 0
    assert "Traceback" not in server.log
