"""The real server in a process of its own, with a tiny image model and the starter text model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = Path(__file__).resolve().parents[1]
MAX_BODY = 256 * 1024
CONTEXT = 512
SERVE = ("import json, sys; from diptych.app import serve; from diptych.settings import Settings; "
         "serve(Settings(**json.loads(sys.argv[1])))")


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


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Path:
    """`tiny`, an image model with random weights, and `starter-text`."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(TESTS / "cli" / "tiny_model.py"), str(folder / "tiny")],
                   check=True, capture_output=True, timeout=120)
    (folder / "starter-text").symlink_to(starter_text.parent)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Server]:
    """One server for all tests of this folder. It ends in order, and has had no fault of its own."""
    data = tmp_path_factory.mktemp("served") / "data"
    data.mkdir()
    (data / "models").symlink_to(model_folder)
    served = Server(data, max_body_bytes=MAX_BODY, text_context=CONTEXT, text_slots=2)
    try:
        served.wait()
        yield served
    finally:
        status = served.stop()
    assert status == 0
    assert "Traceback" not in served.log


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def until() -> Until:
    """Repeat a question until its answer is true."""

    def wait(true: Callable[[], Any], seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := true():
                return found
            time.sleep(0.05)
        raise AssertionError("it did not happen in time")

    return wait
