"""`diptych top`: the server at work, live."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.errors import CliError
from diptych.cli.options import AsJson, DataDir, Server, load_settings

if TYPE_CHECKING:
    from diptych.cli.client import Api

ONCE_SECONDS = 0.5
"""Between the two looks that a single frame takes its speeds from."""
Keys = Callable[[float], str]
"""Waits so many seconds for a key; an empty text when none was pressed."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end; so it is where the output is no "
                                       "terminal.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    server: Server = None, data_dir: DataDir = None, as_json: AsJson = False,
) -> None:
    """Watch devices, models, queue and speeds. Key q quits.

    Goes on when the server ends: it shows the next one as soon as that answers.
    """
    found = Found(server, data_dir)
    if as_json or once or not sys.stdout.isatty():
        _print_one(found, as_json)
        return
    with contextlib.suppress(KeyboardInterrupt), keyboard() as keys:
        _live(found, interval, keys)


class Found:
    """The server to look at. One of a data folder may come back at another address."""

    def __init__(self, server: str | None, data_dir: Path | None) -> None:
        self._server = server
        self._data_dir = None if server else load_settings(data_dir=data_dir).data_dir
        self.where = server or f"the data folder {self._data_dir}"

    @contextlib.contextmanager
    def connected(self) -> Iterator[Api]:
        """Raises CliError when no server runs."""
        from diptych.cli.address import read_address
        from diptych.cli.client import Api

        if self._server is not None:
            with Api(self._server) as api:
                yield api
            return
        assert self._data_dir is not None
        address = read_address(self._data_dir)
        if address is None:
            raise CliError(f"no server runs on {self.where}; start one with: diptych serve")
        self.where = address.url
        with Api(address.url, address.key) as api:
            yield api


def _print_one(found: Found, as_json: bool) -> None:
    from diptych.cli.output import print_json
    from diptych.cli.top_data import Window, frame, sample

    window = Window()
    with found.connected() as api:
        window.add(sample(api))
        time.sleep(ONCE_SECONDS)
        last = sample(api)
        window.add(last)
        data = frame(api.url, last, window)
    if as_json:
        print_json(data)
        return
    from rich.console import Console

    from diptych.cli.top_view import view

    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)
    with console.capture() as capture:
        console.print(view(data))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _live(found: Found, interval: float, keys: Keys) -> None:
    from rich.console import Console
    from rich.live import Live

    from diptych.cli.top_data import Window

    window, console = Window(), Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_look(found, window, console.size.height), refresh=True)
            if keys(interval) in ("q", "Q", "\x03", "\x04"):
                return


def _look(found: Found, window: Any, height: int) -> Any:
    """The picture of one moment: the server's state, or that it is not there."""
    from diptych.cli.top_data import frame, sample
    from diptych.cli.top_view import view, waiting

    try:
        with found.connected() as api:
            last = sample(api)
    except CliError as error:
        window.clear()
        return waiting(found.where, error.message)
    window.add(last)
    return view(frame(api.url, last, window), height)


@contextlib.contextmanager
def keyboard() -> Iterator[Keys]:
    """Keys as they are pressed, without echo; the terminal is as before at the end."""
    if sys.platform == "win32":
        yield _windows_keys
        return
    import os
    import select

    if not sys.stdin.isatty():
        yield _no_keys
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode("latin-1") if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _windows_keys(seconds: float) -> str:
    if sys.platform == "win32":
        import msvcrt

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if msvcrt.kbhit():
                return msvcrt.getwch()
            time.sleep(0.05)
    return ""
