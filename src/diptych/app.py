"""Composition root: the one file that builds and wires the server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import diptych
from diptych.api.anthropic import messages
from diptych.api.anthropic.schema import CountTokensRequest, MessagesRequest
from diptych.api.docs import install_openapi
from diptych.api.errors import install_handlers
from diptych.api.guard import is_loopback
from diptych.api.limits import Limits
from diptych.api.links import Links
from diptych.api.metered import MeteredDispatcher
from diptych.api.native import (
    agents,
    control,
    finish,
    inputs,
    interrogate,
    jobs,
    keys,
    models,
    parts,
    routes,
    system,
    tools,
)
from diptych.api.native.agents import AgentRequest
from diptych.api.native.control import PreprocessRequest
from diptych.api.native.finish import FINISH_BODIES
from diptych.api.native.interrogate import INTERROGATE_BODIES
from diptych.api.native.pulls import Pulls
from diptych.api.native.schema import JobRequest, LoadRequest, ModelRequest, PullRequest
from diptych.api.native.tools import ToolRequest
from diptych.api.observe import routes as observing
from diptych.api.observe.answers import WatchedDispatcher
from diptych.api.observe.http import Observed
from diptych.api.observe.jobs import CountingHub
from diptych.api.observe.lifecycle import Lifecycle
from diptych.api.observe.metrics import Metrics
from diptych.api.observe.observer import Observer
from diptych.api.observe.ready import Readiness
from diptych.api.openai import chat, completions, images, responses
from diptych.api.openai import models as openai_models
from diptych.api.openai.responses_schema import ResponsesRequest
from diptych.api.openai.schema import ChatRequest, CompletionRequest, EditRequest, ImageRequest, VariationRequest
from diptych.api.prompted import PromptedDispatcher
from diptych.api.protect import check_exposure, key_ring, protect
from diptych.api.services import Services
from diptych.api.tasks.routers import TASK_BODIES, TASK_ROUTERS
from diptych.api.trails import Trails
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.logs import level_of, logging_to
from diptych.core.sockets import listening
from diptych.library import Library
from diptych.routing.router import Router
from diptych.runners.local import Launcher
from diptych.schedule.hub import Hub
from diptych.settings import Settings
from diptych.store.inputs import InputStore
from diptych.store.jobs import JobStore
from diptych.store.keys import KeyStore
from diptych.store.seat import Seat
from diptych.text.grounding.collections import CollectionStore
from diptych.text.registry import Registry

FLUSH_SECONDS = 5
"""How long the last words of answers that were broken off may take to be sent."""
HURRY_SECONDS = 5.0
"""How long the server may take to end after a second signal, before it ends by force."""
DESCRIPTION = """Language models and image models of this machine, with one queue and one memory budget.

`/v1` speaks OpenAI's protocol; `/api` is Diptych's own. Every error has the same shape, see `Error`."""
LOG_FILE = "diptych.log"
ROUTERS = (jobs.router, inputs.router, models.router, parts.router, system.router, keys.router, observing.router,
           chat.router, completions.router, responses.router, messages.router, images.router,
           openai_models.router, agents.router, tools.router, routes.router, control.router, finish.router,
           interrogate.router, *TASK_ROUTERS)
BODIES: list[type[BaseModel]] = [JobRequest, LoadRequest, ModelRequest, PullRequest, ChatRequest, CompletionRequest,
                                 ImageRequest, EditRequest, VariationRequest, ResponsesRequest, MessagesRequest,
                                 CountTokensRequest, AgentRequest, ToolRequest, PreprocessRequest, *FINISH_BODIES,
                                 *INTERROGATE_BODIES, *TASK_BODIES]


class ServingDispatcher(PromptedDispatcher, MeteredDispatcher, WatchedDispatcher):
    """The dispatcher as the routes have it: prompts settled, held against limits, then counted."""


def create_app(settings: Settings, owner: str | None = None) -> FastAPI:
    """The server as an ASGI application. Its parts are built when it starts up and end when it shuts down.

    Args:
        owner: a text that is accepted as the key of this machine's owner.
    """

    metrics, lifecycle = Metrics(), Lifecycle(settings.shutdown_grace_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, owner, metrics, lifecycle) as (services, hub):
            app.state.services, app.state.hub = services, hub
            yield

    app = FastAPI(title="Diptych", version=diptych.__version__, description=DESCRIPTION, lifespan=lifespan,
                  docs_url=None, redoc_url=None)
    install_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    install_openapi(app, BODIES)
    app.add_middleware(Trails)
    protect(app, settings)
    app.add_middleware(Observed, metrics=metrics, lifecycle=lifecycle)  # the last one is outside of all others
    return app


@contextlib.asynccontextmanager
async def running(
    settings: Settings, owner: str | None, metrics: Metrics, lifecycle: Lifecycle,
) -> AsyncIterator[tuple[Services, Hub]]:
    """The parts of the server, started; they are stopped at the end. Raises Unavailable."""
    await asyncio.to_thread(make_folders, settings)
    await asyncio.to_thread(CollectionStore(settings.data_dir).sweep)
    store = JobStore(settings.url)
    try:
        await asyncio.to_thread(store.migrate)
        hub, library = CountingHub(metrics), Library(settings)
        ring = key_ring(settings, store.database, owner)
        limits = Limits(KeyStore(store.database), ring.of_caller)
        await ring.refresh(0.0)
        weight_of = ring.weight_of(settings.caller_weights)
        dispatcher = ServingDispatcher(
            limits, settings, store, library, Launcher(settings), hub, weight_of=weight_of)
        dispatcher.watch(metrics, lifecycle)
        hub.watch(dispatcher.executing)
        observer = Observer(metrics, lifecycle, Readiness(settings, store.database, dispatcher, lifecycle))
        await dispatcher.start()
        registry = Registry(settings)
        try:
            await registry.open()
            yield Services(
                settings, store, library, dispatcher, Pulls(settings), observer, ring, Links(), registry,
                Router(settings.routes, note=metrics.routed), InputStore(settings.inputs_dir)), hub
        finally:
            await registry.close()
            await dispatcher.stop()
            await limits.close()
    finally:
        await asyncio.to_thread(store.close)


def make_folders(settings: Settings) -> None:
    """Raises Unavailable, with what to do, when the data folder cannot be made or written."""
    folder = settings.data_dir
    try:
        for folder in (settings.data_dir, settings.artifacts_dir, settings.inputs_dir, settings.models_dir,
                       settings.logs_dir):
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


def prepare(settings: Settings) -> None:
    """Make the data folder and the database, and see whether it may be served like this.

    Raises:
        InvalidRequest: an address that others can reach, while there are no keys; an unknown log level.
        Unavailable: the data folder or the database cannot be used, or another server uses it. One line, with what to
            do.
    """
    _check(settings)
    Registry(settings)
    make_folders(settings)
    Seat(settings.data_dir, settings.url).check()
    store = JobStore(settings.url)
    try:
        store.migrate()
        check_exposure(settings, store.database)
    finally:
        store.close()


def serve(settings: Settings, owner: str | None = None, *, prepared: bool = False) -> None:
    """Serve in this process until SIGINT or SIGTERM; both end it in order.

    Args:
        owner: a text that is accepted as the key of this machine's owner.
        prepared: `prepare` has been called.

    Raises:
        InvalidRequest, Unavailable: as `prepare`; the port is taken. One line, with what to do.
    """
    if not prepared:
        prepare(settings)
    with _logging(settings), _listener(settings.host, settings.port) as listener:
        config = uvicorn.Config(
            create_app(settings, owner), log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=FLUSH_SECONDS, ws_max_size=64 * 1024, lifespan="on")
        server = _Server(config)
        # uvicorn raises the signal again when it has ended: SIGTERM must not cut off what the caller still has to do.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    """Goes on serving while what runs comes to its end, then tells open answers to end before it waits for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state = self.config.app.state  # type: ignore[union-attr]
        await state.services.observer.lifecycle.drain(state.services.dispatcher)
        state.hub.close()  # those that follow a job would else never end
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._captured_signals.append(sig)
        if not self.should_exit:
            self.should_exit = True
            return
        services = getattr(self.config.app.state, "services", None)  # type: ignore[union-attr]
        if services is not None:
            services.observer.lifecycle.hurry()
        # Whatever hangs: a job that is not put back by then is found by the next start.
        force = threading.Timer(HURRY_SECONDS, os._exit, [1])
        force.daemon = True
        force.start()


def _check(settings: Settings) -> None:
    if level_of(settings.log_level) is None:
        raise InvalidRequest(
            f"log_level is {settings.log_level!r}, not debug, info, warning or error", param="log_level")


@contextlib.contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Raises Unavailable when the log file cannot be written."""
    file = settings.logs_dir / LOG_FILE
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(logging_to(level_of(settings.log_level) or logging.INFO, settings.log_format, file))
        except OSError as error:
            raise Unavailable(f"the log file {file} cannot be written ({error.strerror}): make it writable for you, "
                              "or name another data folder with --data-dir") from error
        yield


def _listener(host: str, port: int) -> socket.socket:
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if is_loopback(host) and not is_loopback(found[4][0]):
            raise Unavailable(f"{host} is {found[4][0]} on this machine, which others may reach; give 127.0.0.1 itself",
                              code="port")
        return listening(found[4], found[0])
    except OSError as error:
        reason = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise Unavailable(
            f"cannot listen on {host}, port {port}: {reason}; give another port with --port", code="port") from error
