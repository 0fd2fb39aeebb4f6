"""The watch over runners on processes of its own: what hangs, what computes, what has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from diptych.runners.watch import until_hung

SLEEPS = "import time; time.sleep(60)"
COMPUTES = "while True: pass"


@contextmanager
def process(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code]) as started:
        try:
            yield started.pid
        finally:
            started.kill()


async def silent(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False


def test_silent_and_idle_is_hung() -> None:
    with process(SLEEPS) as pid:
        began = time.monotonic()
        assert asyncio.run(asyncio.wait_for(until_hung(silent, pid, 1.0), 30)) is True
        assert time.monotonic() - began >= 1.0


def test_silent_but_computing_is_not() -> None:
    with process(COMPUTES) as pid, pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(until_hung(silent, pid, 0.5), 3))


def test_stopped_while_it_computed_is_hung() -> None:
    with process(COMPUTES) as pid:
        os.kill(pid, signal.SIGSTOP)
        assert asyncio.run(asyncio.wait_for(until_hung(silent, pid, 0.5), 30)) is True


def test_one_answer_is_enough() -> None:
    looks = 0

    async def every_third(seconds: float) -> bool:
        nonlocal looks
        looks += 1
        await asyncio.sleep(seconds)
        return looks % 3 == 0

    with process(SLEEPS) as pid, pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(until_hung(every_third, pid, 0.5), 3))


def test_ended_is_not_hung() -> None:
    with process(SLEEPS) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert asyncio.run(asyncio.wait_for(until_hung(silent, pid, 1.0), 30)) is False
