"""A server that can be killed and started again with the same data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

CONTEXT = 1024
"""Tokens of prompt and answer together."""


class Server:
    def __init__(self, folder: Path, starter: Path) -> None:
        self.data, self.log = folder / "data", folder / "server.log"
        (self.data / "models").mkdir(parents=True)
        (self.data / "models" / "starter-text").symlink_to(starter)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        clean |= {"DIPTYCH_CONFIG": str(self.data / "none.toml"), "DIPTYCH_THREADS": "2", "DIPTYCH_TEXT_SLOTS": "2",
                  "DIPTYCH_TEXT_CONTEXT": str(CONTEXT), "DIPTYCH_WARM_SPARE": "false"}
        (self.data / "server.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "diptych", "serve", "--data-dir", str(self.data), "--port", "0"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
        self.url = self._address(self._process)

    def kill(self) -> None:
        """As `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(40) == 0

    def _address(self, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, self.log.read_text(errors="replace")
            try:
                url = str(json.loads((self.data / "server.json").read_text())["url"])
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    return url
            except (OSError, ValueError, KeyError, httpx.TransportError):
                time.sleep(0.05)
        raise AssertionError(self.log.read_text(errors="replace"))
