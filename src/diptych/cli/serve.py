"""`diptych serve`: the server in the foreground, until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.errors import CliError
from diptych.cli.options import DataDir, Host, Port, load_settings

if TYPE_CHECKING:
    from diptych.settings import Settings


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    model_dir: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", show_default=False, help="One more folder with models, used in place; "
                     "may be given several times."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="Compute threads of all models together. Default: all cores."),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(min=0, show_default=False, help="Memory that models may use, in GB. Default: 80 % of it."),
    ] = None,
    image_batch: Annotated[
        int | None, typer.Option(min=1, max=256, show_default=False, help="Most pictures made together. Default: 16."),
    ] = None,
    text_slots: Annotated[
        int | None, typer.Option(min=1, max=64, show_default=False, help="Most answers made together. Default: 4."),
    ] = None,
    text_context: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="Context of a chat request in tokens. Default: the model's, "
                     "at most 8192."),
    ] = None,
    warm_spare: Annotated[
        bool | None,
        typer.Option("--warm-spare/--no-warm-spare", show_default=False,
                     help="Keep a process ready that has its libraries imported. Default: yes."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(show_default=False, help="debug, info, warning or error. Default: info.")] = None,
    log_format: Annotated[
        str | None, typer.Option(show_default=False, help="text or json, on standard error; the files in the data "
                                 "folder hold JSON lines. Default: text.")] = None,
    shutdown_grace_seconds: Annotated[
        float | None, typer.Option(min=0, show_default=False, help="How long running pictures and answers may go on "
                                   "when the server is told to end. Default: 5.")] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True)] = False,
) -> None:
    """Start the server and serve until Ctrl-C.

    Every flag has an environment variable of the same name (DIPTYCH_PORT=8000) and a place in the configuration file
    (~/.config/diptych/config.toml).
    """
    settings = load_settings(
        host=host, port=port, data_dir=data_dir, threads=threads, image_batch=image_batch, text_slots=text_slots,
        text_context=text_context, warm_spare=warm_spare, log_level=log_level,
        log_format=log_format, shutdown_grace_seconds=shutdown_grace_seconds,
        model_dirs=tuple(model_dir) if model_dir else None,
        memory_bytes=int(memory_gb * 1024**3) if memory_gb is not None else None)
    run_server(settings, until_eof=until_eof)


def run_server(settings: Settings, *, until_eof: bool = False) -> None:
    """Serve in this process until a signal, or with `until_eof` until standard input ends.

    Raises:
        CliError: the port or the data folder is taken or cannot be used.
    """
    from diptych.cli.address import exclusive, published
    from diptych.core.imports import SPARED, importing

    settings = settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})
    with exclusive(settings.data_dir):
        with importing(*SPARED):
            from diptych.app import prepare
            from diptych.app import serve as serve_app

        prepare(settings)
        settings = settings.model_copy(update={"port": settings.port or free_port(settings.host)})
        check_port(settings.host, settings.port)
        if until_eof:
            threading.Thread(target=_end_with_input, name="until-eof", daemon=True).start()
        url = url_of(settings.host, settings.port)
        owner = secrets.token_urlsafe(32)
        with published(settings.data_dir, url, owner):
            print(f"Diptych starts at {url} (data in {settings.data_dir}); Ctrl-C ends it.", flush=True)
            serve_app(settings, owner, prepared=True)


def url_of(host: str, port: int) -> str:
    """The address for a client on this machine: an any-address is reached over the loopback."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def free_port(host: str) -> int:
    try:
        with _bound(host, 0) as bound:
            return int(bound.getsockname()[1])
    except OSError as error:
        raise CliError(f"cannot listen on {host!r}: {error.strerror or error}") from error


def check_port(host: str, port: int) -> None:
    """Raises CliError when `host:port` cannot be listened on; says whether a Diptych server has it."""
    try:
        _bound(host, port).close()
    except PermissionError as error:
        raise CliError(f"port {port} may not be used by you (ports under 1024 are the system's); "
                       "give another with --port") from error
    except OSError as error:
        from diptych.cli.connect import is_diptych

        if is_diptych(url_of(host, port)):
            raise CliError(f"a Diptych server already answers at {url_of(host, port)}; use it, or give another port: "
                           f"--port {port + 1 if port < 65535 else 0} (with make: PORT={port + 1})") from error
        raise CliError(f"cannot listen on {host}:{port} ({error.strerror or error}): another program has it? "
                       "Give another port: --port 8000 (with make: PORT=8000)") from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    try:
        if os.name == "posix":  # a connection in TIME_WAIT does not keep the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1)
    except OSError:
        made.close()
        raise
    return made


def _end_with_input() -> None:
    """End the server when the command that started it has ended, however it ended."""
    while sys.stdin.buffer.read(1024):
        pass
    signal.raise_signal(signal.SIGINT)
