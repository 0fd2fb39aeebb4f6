"""The real server in a process of its own with the starter text model, for clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

CONTEXT = 1024
ADDRESS = "server.json"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of one server for all tests of this folder. It has had no fault of its own."""
    data = tmp_path_factory.mktemp("clients") / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / "starter-text").symlink_to(starter_text.parent)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    clean |= {"DIPTYCH_CONFIG": str(data / "none.toml"), "DIPTYCH_THREADS": "2", "DIPTYCH_TEXT_SLOTS": "2",
              "DIPTYCH_TEXT_CONTEXT": str(CONTEXT)}
    log_file = data.parent / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "diptych", "serve", "--data-dir", str(data), "--port", "0"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
    try:
        yield _address(process, data / ADDRESS, log_file)
        process.terminate()
        assert process.wait(40) == 0
        assert "Traceback" not in log_file.read_text(errors="replace")
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], file: Path, log_file: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log_file.read_text(errors="replace")
        try:
            url = str(json.loads(file.read_text())["url"])
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return url
        except (OSError, ValueError, KeyError, httpx.TransportError):
            time.sleep(0.05)
    raise AssertionError(log_file.read_text(errors="replace"))
