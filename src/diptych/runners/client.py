"""Client of the runner protocol. Local, remote and upstream runners differ in how they are started, not in this."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from diptych.core.endings import until_set
from diptych.core.errors import Unavailable
from diptych.core.events import Event, Failed, Finished, parse_event
from diptych.core.logs import bound_field
from diptych.core.protocol import Health, LoadRequest, RunRequest, ThreadsRequest

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""How long any call but `run` may take. A runner answers these from its event loop, even while it computes."""
SHUTDOWN_SECONDS = 3.0
AFTER_END_SECONDS = 1.0
"""How long what a runner sent before its end may take to be read."""
POLL_SECONDS = (0.02, 0.5)
"""First and longest pause between two looks at a model that is being loaded."""


class RunnerClient:
    """Speaks to one runner over one connection pool.

    Args:
        url: `http://127.0.0.1:PORT`.
        token: the runner's bearer token.
        exited: set when the runner's process has ended (never, where we did not start it).
        reason: says in a few words why the process ended, for error messages.
    """

    def __init__(
        self, url: str, token: str, *, exited: asyncio.Event | None = None, reason: Callable[[], str] | None = None,
    ) -> None:
        self._exited = exited or asyncio.Event()
        self._reason = reason or (lambda: "the connection to the runner broke")
        # trust_env=False: a proxy of the environment must not see what goes to this machine's own processes.
        # verify=False only spares the reading of certificates: the address is plain HTTP.
        self._http = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, trust_env=False, verify=False,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16))

    async def health(self) -> Health:
        """Raises Unavailable when the runner does not answer."""
        return Health.model_validate(await self._call("GET", "/health"))

    async def answers(self, seconds: float) -> bool:
        """Whether the runner answers at all within so many seconds."""
        try:
            await self._call("GET", "/health", timeout=seconds)
        except Unavailable:
            return False
        return True

    async def load(self, request: LoadRequest, timeout: float | None = None) -> Health:
        """Load the model and wait until it can serve.

        Raises:
            Unavailable: it could not be loaded (says why), was not loaded within `timeout` seconds, the runner already
                holds a model, or died.
        """
        try:
            return await asyncio.wait_for(self._load(request), timeout)
        except asyncio.TimeoutError:
            raise Unavailable(f"model {request.card.id!r} was not loaded within {timeout:g} s") from None

    async def _load(self, request: LoadRequest) -> Health:
        await self._call("POST", "/load", content=request.model_dump_json())
        pause, longest = POLL_SECONDS
        while True:
            # No timeout but the caller's: native code that loads a large model may hold up every other thread.
            health = Health.model_validate(await self._call("GET", "/health", timeout=None))
            if health.state == "ready":
                return health
            if health.state in ("failed", "stopping"):
                raise Unavailable(health.detail or f"the runner is {health.state}", code="load_failed")
            await self._sleep(pause)
            pause = min(2 * pause, longest)

    async def run(self, request: RunRequest) -> AsyncGenerator[Event, None]:
        """The run's events; the last one is `Finished` or `Failed`, also when the runner dies half-way
        (`retryable`). Closing the iterator cancels the run."""
        last: Event | None = None
        try:
            # No read timeout: a large picture is silent for long. A death is noticed by the broken connection.
            timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
            known = bound_field("request_id")  # so that the runner's lines carry it
            stream = self._http.stream("POST", "/run", content=request.model_dump_json(), timeout=timeout,
                                       headers={"x-request-id": known} if known else None)
            async with stream as response:
                if response.status_code != 200:
                    yield _refused(response.status_code, await response.aread())
                    return
                async with contextlib.aclosing(self._lines(response)) as lines:
                    async for line in lines:
                        event = parse_event(line)
                        if isinstance(event, (Finished, Failed)):
                            last = event
                        else:
                            yield event
        except (httpx.TransportError, httpx.StreamError):
            pass
        except RuntimeError:
            if not self._http.is_closed:
                raise
        except ValidationError:
            yield Failed(message="the runner sent something that is no event", status=502, code="runner_protocol")
            return
        # The last event is told when the answer was read to its end, so that its connection can be used again.
        yield last or Failed(message=await self._why(), status=503, code="runner_died", retryable=True)

    async def cancel(self, id: str) -> bool:
        """True if the run was there to be cancelled. A runner that is gone has nothing left to cancel."""
        try:
            answer = await self._call("POST", f"/cancel/{quote(id, safe='')}")
        except Unavailable:
            return False
        return bool(answer["cancelled"])

    async def set_threads(self, threads: int) -> bool:
        """Compute with so many threads from the next step on; False where the engine's number is set when its model is
        loaded. Raises Unavailable when the runner does not answer."""
        request = ThreadsRequest(threads=threads)
        answer = await self._call("POST", "/threads", content=request.model_dump_json())
        return bool(answer["applied"])

    async def shutdown(self) -> None:
        """Ask the process to end; no error if it already has."""
        with contextlib.suppress(Unavailable):
            await self._call("POST", "/shutdown", timeout=SHUTDOWN_SECONDS)

    async def close(self) -> None:
        """Close all connections; runs that still stream are cancelled by that."""
        await self._http.aclose()

    async def _lines(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Whole lines of the stream; what follows the last line break was cut off by a death and is dropped."""
        rest = b""
        # The process may end and its socket stay open in some child. What it sent before is then still in the buffer.
        raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with contextlib.aclosing(until_set(raw, self._exited, AFTER_END_SECONDS)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._http.request(method, path, **options)
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: this client is closed
            message = "the runner did not answer in time" if isinstance(error, httpx.TimeoutException) else None
            raise Unavailable(message or await self._why(), code="runner_died") from error
        if response.is_error:
            raise Unavailable(_refused(response.status_code, response.content).message)
        return response.json()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._exited.wait(), seconds)

    async def _why(self) -> str:
        await self._sleep(0.5)  # the socket breaks a moment before the exit status is known
        return self._reason()


def _refused(status: int, body: bytes) -> Failed:
    """What a runner's error answer says."""
    try:
        error = httpx.Response(status, content=body).json()["error"]
        message, param, code = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError):
        message, param, code = f"the runner answered with status {status}", None, None
    return Failed(message=message, status=status, param=param, code=code, retryable=status >= 500)
