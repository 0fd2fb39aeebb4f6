"""Find the server a command talks to, or start one for as long as the command runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.address import Address, read_address
from diptych.cli.errors import CliError, ServerError
from diptych.cli.options import load_settings
from diptych.cli.output import say

if TYPE_CHECKING:
    from diptych.cli.client import Api
    from diptych.settings import Settings

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_BYTES = 5_000_000


@contextmanager
def connected(server: str | None, data_dir: Path | None) -> Iterator[Api]:
    """A client of the server at `server`, of the one that runs on the data folder, or of one started for now."""
    from diptych.cli.client import Api

    if server:
        with Api(server) as api:
            yield api
        return
    settings = load_settings(data_dir=data_dir)
    address = read_address(settings.data_dir)
    if address is not None:
        with Api(address.url, address.key) as api:
            yield api
        return
    say("No server runs on this data folder: starting one for this command. (`diptych serve` keeps one running, "
        "which answers at once.)")
    with Background(settings.model_copy(update={"port": 0})) as started, Api(started.url, started.key) as api:
        yield api


def is_diptych(url: str) -> bool:
    """Whether a Diptych server answers at `url`."""
    from diptych.cli.client import Api

    try:
        with Api(url) as api:
            found = api.system()
    except ServerError as error:
        return error.code in ("invalid_api_key", "host_not_served", "missing_scope")
    except CliError:
        return False
    return isinstance(found, dict) and "runners" in found


@dataclass
class Background:
    """A server process of our own. Use as a context manager: it has ended when the block has.

    Its output goes to `log`. The process ends itself when this one is gone, even by `kill -9`: it reads our pipe.
    """

    settings: Settings
    url: str = ""
    key: str | None = field(default=None, repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.settings.logs_dir / "server.log"

    def __enter__(self) -> Background:
        self._start()
        try:
            address = self._wait()
            self.url, self.key = address.url, address.key
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        settings = self.settings
        command = [sys.executable, "-m", "diptych.cli.main", "serve", "--until-eof", "--host", settings.host,
                   "--port", str(settings.port), "--data-dir", str(settings.data_dir)]
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            with self.log.open("ab") as log:
                # Its own session: Ctrl-C is for this command, which cancels its job before it ends the server.
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            raise CliError(f"cannot start a server in {settings.data_dir}: {error.strerror or error}") from error

    def _wait(self) -> Address:
        """Until the server listens, ours or one that another command started at the same moment."""
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = self.process.poll()
            address = read_address(self.settings.data_dir)
            if address is not None:
                return address
            if ended is not None:
                raise CliError(f"the server did not start: {last_line(self.log)} (whole output: {self.log})")
            time.sleep(0.05)
        raise CliError(f"the server did not answer within {START_SECONDS:.0f} s; its output is in {self.log}")

    def _stop(self) -> None:
        if self.process is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def last_line(file: Path) -> str:
    """The last line with text in it of a log file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no output"
    return next((line.strip().removeprefix("diptych: ") for line in reversed(lines) if line.strip()), "no output")
