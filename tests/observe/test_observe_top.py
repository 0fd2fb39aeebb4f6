"""`diptych top` against a real server, in a pipe and in a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from diptych.cli.top_data import Sample, Window, eta, means, parse
from diptych.cli.top_view import view


def diptych(*arguments: object, home: Path) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DIPTYCH_", "XDG_"))}
    return subprocess.Popen([sys.executable, "-m", "diptych", *map(str, arguments)], text=True, cwd=home,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**clean, "HOME": str(home)})


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_one_frame(http: httpx.Client, watched: Any, tmp_path: Path) -> None:
    slow = {"model": "tiny", "prompt": "slow", "width": 64, "height": 64, "steps": 1000, "count": 32}
    ids = [http.post("/api/jobs", json=slow, headers={"X-Diptych-Caller": "[red]ann"}).json()["id"] for _ in range(3)]
    try:
        deadline = time.monotonic() + 60
        while not http.get("/api/jobs", params={"state": "running"}).json()["jobs"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        status, out, err = said(diptych("top", "--server", watched.url, home=tmp_path))
        assert (status, err) == (0, "")
        for word in ("cpu", "tiny", "ready", "runs", "interactive", "[red]ann", *ids):
            assert word in out, out
        status, out, err = said(diptych("top", "--once", "--json", "--server", watched.url, home=tmp_path))
        frame = json.loads(out)
        assert frame["devices"][0]["memory_leased"] > 0
        assert {job["id"] for job in frame["running"] + frame["queue"]} == set(ids)
        assert frame["speeds"]["steps_per_second"] > 0
        assert frame["speeds"]["tokens_per_second"] == 0
        assert {"idle_seconds", "bytes_resident", "state"} <= set(frame["runners"][0])
    finally:
        for id in ids:
            http.post(f"/api/jobs/{id}/cancel")


def test_no_server(tmp_path: Path) -> None:
    status, out, err = said(diptych("top", "--once", "--data-dir", tmp_path / "none", home=tmp_path))
    assert (status, out) == (1, "")
    assert "no server runs on the data folder" in err
    status, _, err = said(diptych("top", "--server", "http://127.0.0.1:9", home=tmp_path))
    assert status == 1
    assert "no server answers at http://127.0.0.1:9" in err


class Terminal:
    """`diptych` in a pseudo-terminal of 45 lines."""

    def __init__(self, *arguments: object, home: Path) -> None:
        self.shown = ""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 160, 0, 0))
        environment = {**os.environ, "HOME": str(home), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diptych", *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
            env=environment, start_new_session=True)
        os.close(slave)
        self._master = master

    def wait_for(self, words: str, seconds: float = 40) -> None:
        """Until this has been shown since the last call."""
        deadline = time.monotonic() + seconds
        while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown):
            assert time.monotonic() < deadline, self.shown[-2000:]
            if select.select([self._master], [], [], 0.2)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
        self.shown = ""

    def press(self, key: str) -> int:
        os.write(self._master, key.encode())
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    os.read(self._master, 65536)
                except OSError:
                    break
        return self.process.wait(10)


def test_live_through_the_end_of_a_server(tmp_path: Path) -> None:
    def serve() -> subprocess.Popen[str]:
        return diptych("serve", "--port", 0, "--data-dir", tmp_path / "data", "--no-warm-spare", home=tmp_path)

    server = serve()
    terminal = Terminal("top", "--data-dir", tmp_path / "data", "--interval", 0.3, home=tmp_path)
    try:
        terminal.wait_for("the queue is empty")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        terminal.wait_for("waiting for the server at http://127.0.0.1:")
        server = serve()
        terminal.wait_for("the queue is empty")
        assert terminal.press("q") == 0
    finally:
        terminal.process.kill()
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


METRICS = """# TYPE diptych_steps counter
diptych_steps_total{model="a"} %d
# TYPE diptych_http_requests counter
diptych_http_requests_total{route="/"} %d
# TYPE diptych_tokens_per_second histogram
diptych_tokens_per_second_bucket{le="+Inf",model="b"} 2
diptych_tokens_per_second_count{model="b"} 2
diptych_tokens_per_second_sum{model="b"} 30
"""


def test_speeds_from_samples() -> None:
    def at(second: float, steps: int, requests: int) -> Sample:
        return Sample(second, {}, [], [], parse(METRICS % (steps, requests)))

    window = Window(5)
    window.add(at(0, 100, 1))
    assert window.speeds()["steps_per_second"] is None
    window.add(at(2, 120, 2))
    assert window.speeds()["steps_per_second"] == pytest.approx(10)
    for second in range(3, 20):
        window.add(at(second, 120, second))
    assert window.speeds()["steps_per_second"] == 0
    window.add(at(21, 5, 1))  # another process
    assert window.speeds()["steps_per_second"] is None
    assert means(parse(METRICS % (1, 1))) == [{"model": "b", "unit": "tokens_per_second", "mean": 15, "count": 2}]
    assert eta({"progress": 0.0, "started_at": "2026-01-01T00:00:00Z"}) is None


def test_a_frame_fits_its_terminal() -> None:
    from rich.console import Console

    job = {"id": "0" * 32, "caller": "c", "priority": "batch", "model": "m", "position": 0, "eta_seconds": 1.0}
    recent = {"id": "1" * 32, "state": "succeeded", "spec": {"model": "m", "count": 1}, "artifacts": [1],
              "metrics": {"seconds": 2.0}, "finished_at": "2026-01-01T00:00:00Z"}
    frame: dict[str, Any] = {
        "server": "s", "version": "1", "uptime_seconds": 4000.0, "devices": [{"name": "cpu"}], "runners": [],
        "jobs": {"queued": 500, "running": 0}, "running": [], "queue": [job] * 500, "recent": [recent] * 12,
        "speeds": dict.fromkeys(("steps_per_second", "tokens_per_second", "pictures_per_second")), "means": [],
        "answers_running": None}
    for height in (40, 60):
        console = Console(width=160, height=height, force_terminal=False)
        with console.capture() as capture:
            console.print(view(frame, height))
        assert len(capture.get().splitlines()) <= height
        assert "more" in capture.get()
