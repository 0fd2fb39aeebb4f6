"""Real Diptych servers in processes of their own, one in front of the other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from api_server import SERVE


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Served:
    """`diptych.app.serve` with these settings and these variables in its environment."""

    def __init__(self, data_dir: Path, environment: dict[str, str] | None = None, **settings: Any) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = data_dir.parent / f"{data_dir.name}.log"
        values = {"data_dir": str(data_dir), "port": port, "threads": 1, "warm_spare": False, **settings}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps(values)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**clean, **(environment or {}), "DIPTYCH_CONFIG": str(data_dir / "none.toml")})

    def wait(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(40) == 0
        finally:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.log.read_text()
