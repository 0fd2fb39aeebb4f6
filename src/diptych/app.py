"""Composition root: the one file that builds and wires the server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import diptych
from diptych.api.docs import install_openapi
from diptych.api.errors import install_handlers
from diptych.api.guard import Guard, is_loopback
from diptych.api.native import jobs, models, system
from diptych.api.native.pulls import Pulls
from diptych.api.native.schema import JobRequest, ModelRequest, PullRequest
from diptych.api.openai import chat, completions, images
from diptych.api.openai import models as openai_models
from diptych.api.openai.schema import ChatRequest, CompletionRequest, ImageRequest
from diptych.api.services import Services
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.library import Library
from diptych.runners.local import Launcher
from diptych.schedule.dispatcher import Dispatcher
from diptych.schedule.hub import Hub
from diptych.settings import Settings
from diptych.store.jobs import JobStore

GRACE_SECONDS = 5
"""How long answers that are being sent may go on after the server was told to end."""
DESCRIPTION = """Language models and image models of this machine, with one queue and one memory budget.

`/v1` speaks OpenAI's protocol; `/api` is Diptych's own. Every error has the same shape, see `Error`."""
ROUTERS = (jobs.router, models.router, system.router, chat.router, completions.router, images.router,
           openai_models.router)
BODIES: list[type[BaseModel]] = [JobRequest, ModelRequest, PullRequest, ChatRequest, CompletionRequest, ImageRequest]


def create_app(settings: Settings) -> FastAPI:
    """The server as an ASGI application. Its parts are built when it starts up and end when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings) as (services, hub):
            app.state.services, app.state.hub = services, hub
            yield

    app = FastAPI(title="Diptych", version=diptych.__version__, description=DESCRIPTION, lifespan=lifespan)
    install_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    install_openapi(app, BODIES)
    app.add_middleware(Guard, host=settings.host)
    return app


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Services, Hub]]:
    """The parts of the server, started; they are stopped at the end. Raises Unavailable."""
    await asyncio.to_thread(make_folders, settings)
    store = JobStore(settings.url)
    try:
        await asyncio.to_thread(store.migrate)
        hub, library = Hub(), Library(settings)
        dispatcher = Dispatcher(settings, store, library, Launcher(settings), hub)
        await dispatcher.start()
        try:
            yield Services(settings, store, library, dispatcher, Pulls(settings)), hub
        finally:
            await dispatcher.stop()
    finally:
        await asyncio.to_thread(store.close)


def make_folders(settings: Settings) -> None:
    """Raises Unavailable, with what to do, when the data folder cannot be made or written."""
    folder = settings.data_dir
    try:
        for folder in (settings.data_dir, settings.artifacts_dir, settings.models_dir, settings.logs_dir):
            folder.mkdir(parents=True, exist_ok=True)
        probe = settings.data_dir / ".write-test"
        probe.write_bytes(b"diptych")
        probe.unlink()
    except OSError as error:
        advice = {
            errno.ENOSPC: "make room on the disk", errno.EDQUOT: "make room in your quota",
        }.get(error.errno or 0, "make it writable for you")
        raise Unavailable(f"the data folder {folder} cannot be used ({error.strerror or error}): {advice}, or name "
                          "another one with --data-dir") from error


def serve(settings: Settings) -> None:
    """Serve in this process until SIGINT or SIGTERM; both end it in order.

    Raises:
        InvalidRequest: an address that others can reach, while there are no keys; an unknown log level.
        Unavailable: the port is taken, or the data folder or the database cannot be used. One line, with what to do.
    """
    _check(settings)
    make_folders(settings)
    store = JobStore(settings.url)
    try:
        store.migrate()
    finally:
        store.close()
    with _listener(settings.host, settings.port) as listener:
        app = create_app(settings)
        config = uvicorn.Config(
            app, log_config=None, access_log=settings.log_level == "debug", server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS, ws_max_size=64 * 1024, lifespan="on")
        server = _Server(config, lambda: app.state.hub.close())
        # uvicorn raises the signal again when it has ended: SIGTERM must not cut off what the caller still has to do.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    """Calls `stopping` before it waits for open answers: those that follow a job would else never end."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


def _check(settings: Settings) -> None:
    level = logging.getLevelName(settings.log_level.upper())
    if not isinstance(level, int):
        raise InvalidRequest(
            f"log_level is {settings.log_level!r}, not debug, info, warning or error", param="log_level")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    if not is_loopback(settings.host):
        raise InvalidRequest(
            f"host is {settings.host!r}, which other machines can reach, but there are no API keys yet that could keep "
            "them out: listen on 127.0.0.1 and use an SSH tunnel or a proxy that asks for a password", param="host")


def _listener(host: str, port: int) -> socket.socket:
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(found[4], family=found[0], backlog=1024)
    except OSError as error:
        reason = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise Unavailable(
            f"cannot listen on {host}, port {port}: {reason}; give another port with --port", code="port") from error
