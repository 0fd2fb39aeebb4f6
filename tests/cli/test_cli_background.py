"""A server that a command starts for itself, the conversation in a terminal, and the demonstration."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from diptych.cli.address import read_address

Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--model", "starter", "--size", "64x64", "--steps", "3")
ROOT = Path(__file__).resolve().parents[2]


def wait_until(true: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def library(data: Path, models: Path) -> Path:
    """A data folder with both starter models; the image model is the tiny one where the repository has no better."""
    (data / "models").mkdir(parents=True)
    for name, source in (("starter", "tiny"), ("starter-text", "starter-text")):
        (data / "models" / name).symlink_to((models / source).resolve())
    return data


def test_a_server_for_one_command(run: Run, models: Path, tmp_path: Path) -> None:
    data = library(tmp_path / "data", models)
    done = run("image", "a cat", *SMALL, "--data-dir", data)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()
    assert "starting one for this command" in done.stderr
    assert read_address(data) is None
    assert not (data / "server.json").exists()
    assert (data / "logs" / "server.log").exists()
    assert not [process for process in psutil.process_iter(["cmdline"])
                if str(data) in " ".join(process.info["cmdline"] or ())]


def test_it_ends_when_its_command_is_killed(models: Path, tmp_path: Path) -> None:
    data = library(tmp_path / "data", models)
    process = subprocess.Popen(
        [sys.executable, "-m", "diptych", "image", "slow", "--model", "starter", "--size", "256x256", "--steps", "900",
         "-n", "16", "--data-dir", str(data)], env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = wait_until(lambda: read_address(data))
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(address.pid))


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments: str, home: Path) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background are started with it ignored
            os.environ.update(HOME=str(home), TERM="dumb", COLUMNS="80")
            os.execv(sys.executable, [sys.executable, "-m", "diptych", *arguments])
        self.seen = ""

    def until(self, words: str, seconds: float = 90) -> str:
        """Read until `words` come after what was read before; the text up to them."""
        deadline = time.monotonic() + seconds
        while words not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.descriptor], [], [], left)[0], f"no {words!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.descriptor, 4096).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"it ended without {words!r}: {self.seen!r}") from error
        before, _, self.seen = self.seen.partition(words)
        return before

    def type(self, line: str) -> None:
        os.write(self.descriptor, line.encode() + b"\n")

    def end(self) -> int:
        """The exit status."""
        while True:
            try:
                if not os.read(self.descriptor, 4096):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def test_conversation(server: Any, tmp_path: Path) -> None:
    terminal = Terminal("chat", "--temperature", "0", "--max-tokens", "24", "--server", server.url, home=tmp_path)
    terminal.until("you ›")
    terminal.type("/help")
    terminal.until("/clear")
    terminal.until("you ›")
    terminal.type("What is the capital of France? Answer in one sentence.")
    terminal.until("answer ›")
    answer = terminal.until("tokens/s")
    assert "Paris" in answer
    terminal.until("you ›")
    terminal.type("/system Answer in French.")
    terminal.until("system message is set")
    terminal.type("/nonsense")
    terminal.until("is no command")
    terminal.type("/clear")
    terminal.until("forgotten")
    terminal.type("/exit")
    assert terminal.end() == 0


def test_interrupted_answer(server: Any, tmp_path: Path) -> None:
    """Ctrl-C stops the answer and leaves the conversation open."""
    terminal = Terminal("chat", "--max-tokens", "2000", "--server", server.url, home=tmp_path)
    terminal.until("you ›")
    terminal.type("Write a very long story about a sea voyage.")
    terminal.until("answer ›")
    terminal.until(" ")
    os.write(terminal.descriptor, b"\x03")
    terminal.until("stopped")
    terminal.until("you ›")
    terminal.type("/exit")
    assert terminal.end() == 0


def demo(data: Path, home: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "diptych", "demo", "--data-dir", str(data), "--port", "0", *flags], text=True, cwd=home,
        env={**os.environ, "HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_demo_that_ends(models: Path, tmp_path: Path) -> None:
    process = demo(library(tmp_path / "data", models), tmp_path, "--exit")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "Paris" in output
    file = next(Path(line.strip()) for line in output.splitlines() if line.strip().endswith(".png"))
    assert file.is_file()
    assert output.count(" s\n") == 2
    assert "http://127.0.0.1:" in output


def test_demo_that_serves(run: Run, models: Path, tmp_path: Path) -> None:
    data = library(tmp_path / "data", models)
    process = demo(data, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Serving."):
            break
    second = run("demo", "--data-dir", data, "--exit")
    assert second.returncode == 0, second.stderr
    assert "already runs" in second.stdout
    address = read_address(data)
    assert address is not None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not psutil.pid_exists(address.pid)
