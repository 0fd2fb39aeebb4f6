"""The real server in a process of its own with the starter text model and a tiny Mistral model."""

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
import tiny

CONTEXT = 1024


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of one server for all tests of this folder. It has had no fault of its own."""
    data = tmp_path_factory.mktemp("tasks") / "data"
    for name, folder in (("starter-text", starter_text.parent), ("mistral", tiny.mistral("v7").parent)):
        (data / "models").mkdir(parents=True, exist_ok=True)
        (data / "models" / name).symlink_to(folder)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    clean |= {"DIPTYCH_CONFIG": str(data / "none.toml"), "DIPTYCH_THREADS": "2", "DIPTYCH_TEXT_SLOTS": "2",
              "DIPTYCH_TEXT_CONTEXT": str(CONTEXT)}
    log_file = data.parent / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "diptych", "serve", "--data-dir", str(data), "--port", "0"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
    try:
        yield _address(process, data / "server.json", log_file)
        process.terminate()
        assert process.wait(40) == 0
        assert "Traceback" not in log_file.read_text(errors="replace")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def mistral(url: str) -> str:
    """id of the tiny Mistral model (random weights, the real Tekken vocabulary)."""
    models = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    return next(str(model["id"]) for model in models if "mistral" in model["id"])


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
