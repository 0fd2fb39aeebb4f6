"""The runner process: one engine behind HTTP on 127.0.0.1.

`python -m diptych.engines.server --engine image|llamacpp|transformers|package.module:Class`

The bearer token comes from `DIPTYCH_RUNNER_TOKEN`. The first line on standard output is `{"port": N}`; whatever native
code prints there later goes to standard error, which is the log. The process ends when its standard input does, so it
never outlives its parent, however that one dies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from diptych.core.errors import Conflict, DiptychError, InvalidRequest, TooLarge, Unavailable
from diptych.core.imports import importing
from diptych.core.logs import bound, level_of, logging_to, run_fields
from diptych.core.protocol import Health, LoadRequest, RunnerState, RunRequest, ThreadsRequest
from diptych.core.sockets import listening
from diptych.engines.base import Engine, Measuring, Threaded
from diptych.engines.mailbox import Mailbox
from diptych.engines.memory import peak_bytes, resident_bytes
from diptych.engines.streaming import EventStream

ENGINES = {
    "image": "diptych.engines.image.engine:ImageEngine",
    "llamacpp": "diptych.engines.text.llamacpp:LlamaCppEngine",
    "transformers": "diptych.engines.transformers.engine:TransformersEngine",
}
TOKEN_VARIABLE = "DIPTYCH_RUNNER_TOKEN"
MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request body. The gateway's own limit is lower; this one protects against a confused client."""
CLOSE_SECONDS = 5.0
"""How long open streams and the engine may take to end when the process does."""
KEEP_ALIVE_SECONDS = 24 * 3600
"""How long an unused connection stays open. Native imports hold up the event loop for seconds; with uvicorn's five, its
timer would then close a connection on which a request already waits."""

log = logging.getLogger("diptych.runner")
Body = TypeVar("Body", bound=BaseModel)


def import_engine(name: str) -> type[Engine]:
    """The engine class of a known name or of `package.module:Class`.

    Raises:
        InvalidRequest: the name is neither.
        ImportError, AttributeError: it is, but cannot be imported.
    """
    target = ENGINES.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        known = ", ".join(ENGINES)
        raise InvalidRequest(f"no engine {name!r}; known: {known}, or package.module:Class", param="engine")
    with importing():
        engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    return engine


class RunnerApp:
    """State of one runner process and the routes over it. `end` asks the process to end."""

    def __init__(self, engine_name: str, end: Callable[[], None]) -> None:
        self._engine_name = engine_name
        self._end = end
        self._engine: Engine | None = None
        self._state: RunnerState = "importing"
        self._detail: str | None = None
        self._load: LoadRequest | None = None
        self._load_lock = threading.Lock()
        self._imported = threading.Event()
        self._runs: dict[str, Mailbox] = {}

    def asgi(self, token: str) -> ASGIApp:
        routes = [
            Route("/health", self.health),
            Route("/load", self.load, methods=["POST"]),
            Route("/run", self.run, methods=["POST"]),
            Route("/cancel/{id:path}", self.cancel, methods=["POST"]),
            Route("/threads", self.threads, methods=["POST"]),
            Route("/shutdown", self.shutdown, methods=["POST"]),
        ]
        handlers = {
            DiptychError: _told, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _unexpected}
        return _Authorized(Starlette(routes=routes, exception_handlers=handlers), token)  # type: ignore[arg-type]

    def import_in_background(self) -> None:
        threading.Thread(target=self._import, name="import", daemon=True).start()

    def cancel_all(self) -> None:
        """Cancel every run, so that the open streams end."""
        self._state = "stopping"
        for id in list(self._runs):
            if self._engine is not None:
                self._engine.cancel(id)

    def close(self) -> None:
        """End the engine; gives up after `CLOSE_SECONDS`, since the process ends right after."""
        self._state = "stopping"
        if self._engine is not None:
            closer = threading.Thread(target=self._engine.close, name="close", daemon=True)
            closer.start()
            closer.join(CLOSE_SECONDS)

    async def health(self, request: Request) -> Response:
        return self._health()

    async def load(self, request: Request) -> Response:
        """Take the model and answer 202; `/health` tells when it is `ready` or `failed`."""
        load = await _read(request, LoadRequest)
        with self._load_lock:
            if self._state == "failed":
                raise Unavailable(self._detail or "the engine could not be imported")
            if self._load is not None or self._state == "stopping":
                held = self._load.card.id if self._load else None
                raise Conflict(f"this runner is {self._state} and holds model {held!r}; it takes one model, once")
            self._load = load
        threading.Thread(target=self._load_model, args=(load,), name="load", daemon=True).start()
        return self._health(202)

    async def run(self, request: Request) -> Response:
        run = await _read(request, RunRequest)
        if self._state != "ready" or self._engine is None:
            raise Unavailable(f"this runner is {self._state}, not ready: {self._detail or 'load a model first'}")
        if run.id in self._runs:
            raise Conflict(f"run {run.id!r} is already running here", param="id")
        mailbox = self._runs[run.id] = Mailbox(asyncio.get_running_loop())
        fields = {**run_fields(run.id), "model": run.spec.model, "request_id": request.headers.get("x-request-id")}
        try:
            with bound(**fields):
                # In a thread: an engine may tokenize a long prompt or take a lock before it accepts.
                await asyncio.to_thread(self._engine.submit, run, mailbox.put)
        except BaseException:
            self._runs.pop(run.id, None)
            mailbox.close()
            raise
        return EventStream(self._engine, run, mailbox, lambda: self._runs.pop(run.id, None), fields)

    async def cancel(self, request: Request) -> Response:
        id = request.path_params["id"]
        cancelled = id in self._runs and self._engine is not None
        if cancelled and self._engine is not None:
            cancelled = await asyncio.to_thread(self._engine.cancel, id)
        return JSONResponse({"cancelled": cancelled})

    async def threads(self, request: Request) -> Response:
        """Compute with another number of threads from the next step on, where the engine can."""
        wanted = await _read(request, ThreadsRequest)
        applied = isinstance(self._engine, Threaded) and self._state == "ready"
        if applied:
            assert isinstance(self._engine, Threaded)
            self._engine.set_threads(wanted.threads)
        return JSONResponse({"applied": applied})

    async def shutdown(self, request: Request) -> Response:
        self._state = "stopping"
        self._end()
        return self._health(202)

    def _health(self, status: int = 200) -> Response:
        health = Health(
            state=self._state, engine=self._engine_name, model=self._load.card.id if self._load else None,
            running=len(self._runs), bytes_resident=resident_bytes(), bytes_peak=peak_bytes(), detail=self._detail,
            threads=self._engine.threads if isinstance(self._engine, Threaded) else None,
            passes=self._engine.passes() if isinstance(self._engine, Measuring) else {})
        return Response(health.model_dump_json(), status, media_type="application/json")

    def _import(self) -> None:
        try:
            self._engine = import_engine(self._engine_name)()
            self._state = "spare"
        except DiptychError as error:
            self._fail(error.message)
        except Exception as error:
            log.exception("the engine could not be imported")
            self._fail(f"engine {self._engine_name!r} could not be imported: {_gist(error)}")
        finally:
            self._imported.set()

    def _load_model(self, load: LoadRequest) -> None:
        self._imported.wait()
        if self._engine is None:
            return
        self._state = "loading"
        started = time.monotonic()
        try:
            self._engine.load(load)
        except DiptychError as error:
            self._fail(error.message)
        except Exception as error:
            log.exception("the model could not be loaded")
            self._fail(f"model {load.card.id!r} could not be loaded: {_gist(error)}")
        else:
            log.info("loaded %s in %.2f s", load.card.id, time.monotonic() - started)
            self._state = "ready"

    def _fail(self, detail: str) -> None:
        self._detail = detail
        self._state = "failed"


class _Authorized:
    """Lets only requests with the token through. Plain ASGI, so that streams are not wrapped."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                message = "this runner belongs to another process: the bearer token is missing or wrong"
                response = _error(401, message, "authentication_error", "invalid_api_key")
                return await response(scope, receive, send)
        return await self._app(scope, receive, send)


async def _read(request: Request, model: type[Body]) -> Body:
    """The body as `model`; raises InvalidRequest that names the first wrong field, or TooLarge."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge(f"the body is over the limit of {MAX_BODY} bytes")
        parts.append(part)
    try:
        return model.model_validate_json(b"".join(parts))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param) from error


def _gist(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _error(status: int, message: str, kind: str, code: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


async def _told(request: Request, error: DiptychError) -> Response:
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}",
                  "invalid_request_error", "not_found")


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # never seen: its client went while it was still sending


async def _unexpected(request: Request, error: Exception) -> Response:
    message = f"the engine failed: {type(error).__name__}; the runner's log says more"
    return _error(500, message, "server_error", "internal")


def _end_with_parent(end: Callable[[], None]) -> None:
    """Block until standard input ends, then end the process; by force if that takes too long."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    end()
    time.sleep(2 * CLOSE_SECONDS + 1)
    os._exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the process until it is told to end. Exit status 2: started the wrong way."""
    parser = argparse.ArgumentParser(prog="python -m diptych.engines.server", description="One engine behind HTTP.")
    parser.add_argument("--engine", required=True, help="image, llamacpp, transformers or package.module:Class")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    parser.add_argument("--id", default="", help="names this runner in its log")
    options = parser.parse_args(arguments)
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if not token:
        parser.error(f"the environment variable {TOKEN_VARIABLE} is not set")
    listener = listening(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    os.dup2(2, 1)
    level = level_of(options.log_level) or logging.INFO
    with logging_to(level, options.log_format, own_file=bool(options.id), runner_id=options.id):
        serve(options.engine, token, listener)
    # Not sys.exit: threads of native libraries must not keep a process alive whose work is done.
    os._exit(0)


def serve(engine: str, token: str, listener: socket.socket) -> None:
    """Serve on `listener` until `/shutdown`, a signal, or the end of standard input."""
    server: uvicorn.Server

    def end() -> None:
        threading.Thread(target=app.cancel_all, name="cancel", daemon=True).start()
        server.should_exit = True

    app = RunnerApp(engine, end)
    config = uvicorn.Config(
        app.asgi(token), log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=int(CLOSE_SECONDS), timeout_keep_alive=KEEP_ALIVE_SECONDS)
    server = uvicorn.Server(config)
    app.import_in_background()
    threading.Thread(target=_end_with_parent, args=(end,), name="parent", daemon=True).start()
    server.run(sockets=[listener])
    app.close()


if __name__ == "__main__":
    main(sys.argv[1:])
