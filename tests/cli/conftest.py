"""The real `diptych` process, with a data folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.cli.address import read_address

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without any Diptych setting, and with `home` as the home folder."""
    clean = {key: value for key, value in os.environ.items()
             if not key.startswith(("DIPTYCH_", "XDG_")) and key not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}
    return {**clean, "HOME": str(home), "COLUMNS": "100", "TERM": "dumb", **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diptych", *map(str, arguments)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `diptych` with these arguments to its end. Its home folder is empty; standard input is closed."""

    def runs(*arguments: object, stdin: str | None = None, timeout: float = 120,
             **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(command(*arguments), text=True, capture_output=True, timeout=timeout,
                              cwd=tmp_path, env=environment(tmp_path, **variables), **given)  # type: ignore[call-overload, no-any-return]

    return runs


class Server:
    """A real `diptych serve` on a free port."""

    def __init__(self, data_dir: Path, home: Path, models: list[Path]) -> None:
        self.data_dir, self.home = data_dir, home
        flags = [part for folder in models for part in ("--model-dir", folder)]
        self.log = (home / "serve.log").open("ab")
        self.process = subprocess.Popen(
            command("serve", "--port", 0, "--data-dir", data_dir, *flags), env=environment(home), cwd=home,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.url = self._wait()

    def _wait(self) -> str:
        for _ in range(600):
            address = read_address(self.data_dir)
            if address is not None:
                return address.url
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError((self.home / "serve.log").read_text())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture(scope="session")
def models(model_folder: Path) -> Path:
    """A folder with two models: `tiny`, an image model with random weights, and `starter-text`."""
    return model_folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    """One server for all tests of this folder."""
    home = tmp_path_factory.mktemp("home")
    served = Server(home / "data", home, [models])
    yield served
    assert served.stop() == 0
    assert read_address(served.data_dir) is None


@pytest.fixture
def ask(run: Run, server: Server) -> Run:
    """`run` with the running server."""
    return lambda *arguments, **options: run(*arguments, DIPTYCH_SERVER=server.url, **options)
