"""Runner processes on this machine: start, keep a warm spare, end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.protocol import LoadRequest
from diptych.runners.client import RunnerClient
from diptych.runners.logs import last_words, prune_logs
from diptych.runners.watch import until_hung
from diptych.settings import Settings

Options = dict[str, float | int | str | bool]

SPARE_ENGINE = "image"
"""The engine whose libraries take seconds to import."""
SPINS = 30_000
"""How often a waiting thread looks again before it sleeps. Only where that slows nobody: in an engine that changes its
number of threads between two steps, and so never has more than its share of the cores, and in one that was given more
than half of them on purpose: docs/decisions/0006-processor-shares.md."""
POLITE_SECONDS = 8.0
TERMINATE_SECONDS = 3.0
LOAD_RATE = 20e6
"""Bytes of a file that a model is loaded from in a second, at least: on a slow disk, or where all cores are busy."""

log = logging.getLogger("diptych.runners")


class Runner:
    """One runner process, from its start to its end. `id` names its log file."""

    def __init__(self, id: str, engine: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.id, self.engine, self.process, self.log = id, engine, process, log
        self.card: Card | None = None
        self.exited = asyncio.Event()
        self._client: RunnerClient | None = None
        self._watch = asyncio.ensure_future(self._wait())
        self._guard: asyncio.Task[None] | None = None
        self._hung_seconds: float | None = None

    @property
    def client(self) -> RunnerClient:
        if self._client is None:
            raise Unavailable("the runner has not started yet")
        return self._client

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def connect(self, port: int, token: str, hang_seconds: float) -> None:
        """From now on it has a client, and is ended when it hangs for `hang_seconds`."""
        self._client = RunnerClient(f"http://127.0.0.1:{port}", token, exited=self.exited, reason=self.reason)
        self._guard = asyncio.ensure_future(self._end_when_hung(self._client, hang_seconds))

    def on_exit(self, told: Callable[[], object]) -> None:
        """`told` is called in the event loop when the process has ended."""
        self._watch.add_done_callback(lambda _: told())

    def reason(self) -> str:
        """Why the process ended, for a person: its signal or status and its last words."""
        status = self.process.returncode
        if status is None:
            return "the connection to the runner broke"
        if status == 0:
            return "the runner has ended"
        if self._hung_seconds is not None:
            return f"the runner hung and was ended: for {self._hung_seconds:g} s it neither answered nor computed"
        how = f"by {_signal_name(-status)}" if status < 0 else f"with status {status}"
        words = last_words(self.log)
        return f"the runner ended {how}" + (f": {words}" if words else "") + f" (log: {self.log.name})"

    async def stop(self) -> None:
        """End the process: politely, then with SIGTERM, then with SIGKILL. Returns when it is gone; may be repeated."""
        if self.alive and self._client is not None:
            await self._client.shutdown()
        if self.process.stdin is not None:
            self.process.stdin.close()  # the end of its input tells it the same, should HTTP not have
        for seconds, then in ((POLITE_SECONDS, self.process.terminate), (TERMINATE_SECONDS, self.process.kill)):
            if not await self._ended(seconds):
                with contextlib.suppress(ProcessLookupError):
                    then()
        await self.exited.wait()
        if self._client is not None:
            await self._client.close()

    async def _ended(self, seconds: float) -> bool:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.exited.wait(), seconds)
        return self.exited.is_set()

    async def _wait(self) -> None:
        await self.process.wait()
        self.exited.set()
        if self._guard is not None:
            self._guard.cancel()

    async def _end_when_hung(self, client: RunnerClient, seconds: float) -> None:
        if await until_hung(client.answers, self.process.pid, seconds) and self.alive:
            log.error("runner %s hung for %g s and is ended", self.id, seconds)
            self._hung_seconds = seconds
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


def engine_of(card: Card) -> str:
    """Name of the engine that serves a card; raises InvalidRequest where none does."""
    if card.format == "gguf" and card.panel == "text":
        return "llamacpp"
    if card.format == "safetensors" and card.panel == "text":
        return "transformers"
    if card.panel == "image":
        return "image"
    raise InvalidRequest(f"no engine serves {card.format} models for {card.panel} ({card.id!r})", param="model")


class Launcher:
    """Starts runners and keeps one spare. Belongs to one event loop.

    Args:
        engine_of: the engine that serves a card, by a known name or as `package.module:Class`.
        spare_engine: the engine of the warm spare.
    """

    def __init__(
        self, settings: Settings, *, engine_of: Callable[[Card], str] = engine_of, spare_engine: str = SPARE_ENGINE,
    ) -> None:
        self._settings = settings
        self._engine_of = engine_of
        self._spare_engine = spare_engine
        self._spare: asyncio.Task[Runner] | None = None
        self._spare_ends = False
        self._runners: set[Runner] = set()
        self._closed = False
        self.spare_fits: Callable[[], bool] = lambda: True
        """Says whether there is memory for a warm spare; asked before one is started."""

    async def start(self, card: Card, threads: int, options: Options | None = None) -> Runner:
        """A runner that serves `card`, with `threads` compute threads.

        Raises:
            InvalidRequest: no engine serves such a card.
            Unavailable: the process did not start, the model could not be loaded, or either took too long.
        """
        engine = self._engine_of(card)
        runner = await self._take_spare(engine) or await self._spawn(engine, threads)
        try:
            request = LoadRequest(card=card, threads=threads, options=options or {})
            await runner.client.load(request, self._settings.runner_start_seconds + card.bytes / LOAD_RATE)
        except BaseException:
            await self._discard(runner)
            raise
        runner.card = card
        self.warm()
        return runner

    def warm(self) -> None:
        """Start the warm spare in the background, unless there is one or the settings want none."""
        if self._settings.warm_spare and not self._closed and self._spare is None and self.spare_fits():
            self._spare = asyncio.ensure_future(self._spawn(self._spare_engine, self._threads()))

    @property
    def has_spare(self) -> bool:
        """Whether a spare is there, or being started."""
        return self._spare is not None

    async def end_spare(self) -> None:
        """End the warm spare, if there is one, and wait until its memory is free."""
        if self._spare is None:
            return
        self._spare_ends, spare = True, self._spare
        try:
            with contextlib.suppress(Unavailable):
                await self._discard(await asyncio.shield(spare))
        finally:
            self._spare_ends = False
            if self._spare is spare:
                self._spare = None

    async def close(self) -> None:
        """End the spare and every runner that was started here."""
        self._closed = True
        if self._spare is not None:
            self._spare.cancel()
            await asyncio.wait([self._spare])
        await asyncio.gather(*(self._discard(runner) for runner in list(self._runners)))

    async def _take_spare(self, engine: str) -> Runner | None:
        if engine != self._spare_engine or self._spare is None or self._spare_ends:
            return None
        spare, self._spare = self._spare, None
        try:
            runner = await spare
        except Unavailable:
            return None  # a fresh start tells the reason, or works
        if runner.alive:
            return runner
        await self._discard(runner)
        return None

    async def _spawn(self, engine: str, threads: int) -> Runner:
        """Start a process and wait until it has told its port. It imports its engine on its own."""
        id, token = secrets.token_hex(6), secrets.token_urlsafe(32)
        logs = self._settings.logs_dir
        log = logs / f"runner-{id}.log"
        try:
            logs.mkdir(parents=True, exist_ok=True)
            prune_logs(logs)
            with log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "diptych.engines.server", "--engine", engine,
                    "--log-level", self._settings.log_level, "--log-format", "json", "--id", id,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=file,
                    env=runner_environment(token, threads, self._spins(engine, threads)),
                    start_new_session=True)  # so that Ctrl-C in a terminal reaches the gateway alone
        except OSError as error:
            raise Unavailable(f"the runner process could not be started: {error.strerror or error}") from error
        runner = Runner(id, engine, process, log)
        self._runners.add(runner)
        runner.on_exit(lambda: self._runners.discard(runner))
        try:
            runner.connect(await self._port(runner), token, self._settings.runner_hang_seconds)
        except BaseException:
            await self._discard(runner)
            raise
        return runner

    async def _port(self, runner: Runner) -> int:
        assert runner.process.stdout is not None
        seconds = self._settings.runner_start_seconds
        try:
            line = await asyncio.wait_for(runner.process.stdout.readline(), seconds)
            return int(json.loads(line)["port"])
        except asyncio.TimeoutError:
            raise Unavailable(f"the runner did not start within {seconds:g} s") from None
        except (ValueError, KeyError, TypeError):
            await runner._ended(1.0)
            raise Unavailable(runner.reason(), code="runner_died") from None

    async def _discard(self, runner: Runner) -> None:
        await asyncio.shield(runner.stop())

    def _spins(self, engine: str, threads: int) -> int:
        return SPINS if engine == SPARE_ENGINE or 2 * threads > self._threads() else 0

    def _threads(self) -> int:
        return self._settings.threads or os.cpu_count() or 1


def runner_environment(token: str, threads: int, spins: int = 0) -> dict[str, str]:
    """This process's environment and what makes a runner a good neighbour: a bounded number of threads that sleep
    while they wait (threads that spin slow the other panel many times over), and no calls to model hubs.

    Args:
        spins: times that a waiting thread of OpenMP looks again before it sleeps.
    """
    count = str(threads)
    return {
        **os.environ,
        "DIPTYCH_RUNNER_TOKEN": token,
        "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(spins), "KMP_BLOCKTIME": "0",
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
