"""A real server in a process of its own with models of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

CONTEXT = 1024


@contextmanager
def serving(data: Path, models: dict[str, Path], **settings: str) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of a server with these folders as its models. It has had no fault of its own."""
    (data / "models").mkdir(parents=True)
    for name, folder in models.items():
        (data / "models" / name).symlink_to(folder)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    clean |= {"DIPTYCH_CONFIG": str(data / "none.toml"), "DIPTYCH_THREADS": "2", "DIPTYCH_TEXT_SLOTS": "2",
              "DIPTYCH_TEXT_CONTEXT": str(CONTEXT), **settings}
    log_file = data.parent / f"{data.name}.log"
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
