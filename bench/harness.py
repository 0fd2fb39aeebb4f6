"""What the measurements share: a real gateway in a process of its own, tables, medians, the machine's description."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
STARTER = ROOT / "starter"
START_SECONDS = 60.0
SPARE_SECONDS = 30.0


def text_model() -> Path:
    """The starter text model's GGUF file, pulled once per machine into `$DIPTYCH_TEST_CACHE`."""
    from diptych.library.pull import pull
    from diptych.settings import Settings

    cache = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
    return Path(pull("starter-text", Settings(data_dir=cache)).path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Gateway:
    """`diptych serve` on a data folder, on one port; may be killed and started again.

    Args:
        settings: of `diptych.settings.Settings`, by name.
    """

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir, self.settings, self.port = data_dir, settings, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = data_dir.with_name(f"{data_dir.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def start(self, wait: bool = True) -> float:
        """Start it; the seconds until `/health` answered."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        given = {f"DIPTYCH_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
                 for key, value in self.settings.items()}
        command = [sys.executable, "-m", "diptych", "serve", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        began = time.perf_counter()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**clean, **given, "DIPTYCH_CONFIG": str(self.data_dir / "none.toml")})
        while wait and not self.answers():
            if self.process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                raise RuntimeError(f"the gateway did not start:\n{self.log[-4000:]}")
            time.sleep(0.005)
        return time.perf_counter() - began

    def answers(self) -> bool:
        """Whether `/health` answers now. A bare socket first: a client costs more than the question."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End it with a signal, by default without warning, and wait until it is gone."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            self.process.wait(40)
        finally:
            self.process.kill()
            self.process.wait()

    def runners(self) -> list[dict[str, Any]]:
        """Of `/api/system`: model, pid, state, …"""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/api/system", timeout=30).json()["runners"]
        return found

    def runner_pid(self, model: str) -> int | None:
        """Process of the runner that holds `model` and is ready."""
        return next((one["pid"] for one in self.runners() if one["model"] == model and one["pid"]), None)

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children()
        return []

    def wait_for_spare(self) -> None:
        """Until the warm spare has imported its libraries: no process of the gateway computes any more."""
        deadline, quiet = time.monotonic() + SPARE_SECONDS, 0
        before = self._busy_seconds()
        while quiet < 3 and time.monotonic() < deadline:
            time.sleep(0.5)
            now = self._busy_seconds()
            quiet = quiet + 1 if now - before < 0.05 and self.children() else 0
            before = now

    def _busy_seconds(self) -> float:
        total = 0.0
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
        return total


@contextlib.contextmanager
def gateway(**settings: Any) -> Iterator[Gateway]:
    """A gateway on an empty data folder with both starter models; all is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="diptych-bench-"))
    (folder / "data" / "models").mkdir(parents=True)
    (folder / "data" / "models" / "starter-text").symlink_to(text_model().resolve().parent)
    served = Gateway(folder / "data", **settings)
    try:
        served.start()
        yield served
    finally:
        if served.process is not None:
            served.kill(signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


def submit(client: httpx.Client, **fields: Any) -> str:
    """Submit an image job to our own API; its id."""
    answer = client.post("/api/jobs", json=fields)
    if answer.is_error:
        raise RuntimeError(f"the job was refused: {answer.text}")
    return str(answer.json()["id"])


def events(client: httpx.Client, id: str) -> Iterator[dict[str, Any]]:
    """A job's events as they come, to the last."""
    with client.stream("GET", f"/api/jobs/{id}/events", timeout=600) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def finish(client: httpx.Client, id: str) -> dict[str, Any]:
    """Wait for a job's end; its record. Raises RuntimeError unless it succeeded."""
    for _ in events(client, id):
        pass
    job: dict[str, Any] = client.get(f"/api/jobs/{id}").json()
    if job["state"] != "succeeded":
        raise RuntimeError(f"job {id} is {job['state']}: {job['error']}")
    return job


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternating(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each work in each round. Their order turns round by round, so that what disturbs the machine for a
    while meets all alike. One unmeasured round comes first."""
    names = list(works)
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(timed(works[name]))
    return seconds


def median_ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    """Median of the rounds' ratios: both sides of a ratio saw the same moment of the machine."""
    return statistics.median(one / other for one, other in zip(mine, others, strict=True))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("diptych", "torch", "diffusers", "xllamacpp"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "processor": processor(), "cores": psutil.cpu_count(), "load": round(psutil.getloadavg()[0], 2),
        "memory_gib": round(psutil.virtual_memory().total / 2**30), "python": platform.python_version(), **versions}


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report(name: str, rows: Sequence[tuple[object, ...]], head: Sequence[str], result: dict[str, Any]) -> None:
    """A table for people, then one line of JSON: `result` with the benchmark's name and the machine."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\n{name}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(json.dumps({"bench": name, **result, "machine": machine()}), flush=True)
