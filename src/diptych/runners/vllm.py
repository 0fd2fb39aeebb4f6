"""`vllm serve`, started where vLLM is installed, and spoken to like any other server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
from pathlib import Path

import httpx

from diptych.core.errors import Unavailable
from diptych.settings import Settings, Upstream

POLITE_SECONDS = 10.0
POLL_SECONDS = 0.5
KEY_VARIABLE = "VLLM_API_KEY"


class VllmServer:
    """One `vllm serve` process, from its first use to `stop`. Belongs to one event loop."""

    def __init__(self, name: str, upstream: Upstream, settings: Settings) -> None:
        self._name, self._upstream, self._settings = name, upstream, settings
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._address: tuple[str, str] | None = None

    async def address(self) -> tuple[str, str]:
        """URL and API key, once it serves; starts it where it does not run.

        Raises:
            Unavailable: vLLM is not installed, it ended, or it did not serve in time; says what to do.
        """
        async with self._starting:
            if self._address is not None and self._process is not None and self._process.returncode is None:
                return self._address
            self._address = await self._start()
            return self._address

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        for end in (process.terminate, process.kill):
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), POLITE_SECONDS)
                return

    async def _start(self) -> tuple[str, str]:
        command = self._command()
        port, key = _free_port(), secrets.token_urlsafe(32)
        log = self._settings.logs_dir / f"vllm-{self._name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        served = self._upstream.models[0]
        try:
            with log.open("ab") as file:
                self._process = await asyncio.create_subprocess_exec(
                    command, "serve", str(self._upstream.vllm), "--host", "127.0.0.1", "--port", str(port),
                    "--served-model-name", served, *self._upstream.vllm_args,
                    stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                    # The key goes through the environment: command lines can be read by everybody.
                    env={**os.environ, KEY_VARIABLE: key, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"})
        except OSError as error:
            raise Unavailable(f"vLLM could not be started for upstream {self._name!r}: {error.strerror or error}",
                              code="vllm_failed") from error
        url = f"http://127.0.0.1:{port}"
        try:
            await asyncio.wait_for(self._ready(url, log), self._settings.runner_start_seconds)
        except asyncio.TimeoutError:
            await self.stop()
            raise Unavailable(f"vLLM did not serve upstream {self._name!r} within "
                              f"{self._settings.runner_start_seconds:g} s (log: {log.name}); raise "
                              "DIPTYCH_RUNNER_START_SECONDS", code="vllm_failed") from None
        except BaseException:
            await self.stop()
            raise
        return f"{url}/v1", key

    def _command(self) -> str:
        beside = Path(sys.executable).parent / "vllm"
        command = str(beside) if beside.is_file() else shutil.which("vllm")
        if command is None:
            raise Unavailable(
                f"upstream {self._name!r} is to be served by vLLM, which is not installed: there is no command 'vllm' "
                "beside Python or on the PATH. Install it with: pip install vllm (it needs a GPU that it supports), or "
                "give the upstream a url instead", code="vllm_missing")
        return command

    async def _ready(self, url: str, log: Path) -> None:
        assert self._process is not None
        async with httpx.AsyncClient(trust_env=False, timeout=POLL_SECONDS * 4) as http:
            while True:
                if self._process.returncode is not None:
                    raise Unavailable(f"vLLM ended with status {self._process.returncode} before it served upstream "
                                      f"{self._name!r} (log: {log.name})", code="vllm_failed")
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{url}/health")).status_code == 200:
                        return
                await asyncio.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
