"""Finds a runner that hangs: a process that neither answers nor computes nor reads from disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psutil

LOOKS = 4
"""How many looks in a row have to find nothing."""
LONGEST_PAUSE = 15.0
LEAST_COMPUTING = 0.01
"""Share of one core under which a process does not compute: one that waits still wakes now and then."""

Used = tuple[float, int]
"""Seconds of processor time, and bytes read from disk, since a process began."""


async def until_hung(answers: Callable[[float], Awaitable[bool]], pid: int, seconds: float) -> bool:
    """True once the process has hung for `seconds`; False when it has ended.

    Silence alone is no sign: native code that loads a large model may hold up every other thread. Looks are counted,
    not the time between them: while this process was stopped itself, or the machine slept, nobody could answer.

    Args:
        answers: whether the process answers within so many seconds.
        pid: of the process.
    """
    pause = min(seconds / LOOKS, LONGEST_PAUSE)
    silent, before = 0.0, used(pid)
    while silent < seconds:
        await asyncio.sleep(pause / 2)
        if await answers(pause / 2):
            silent = 0.0
            continue
        now = used(pid)
        if before is None or now is None:
            return False
        silent = silent + pause if idle(before, now, pause) else 0.0
        before = now
    return True


def idle(before: Used, now: Used, seconds: float) -> bool:
    """Whether a process did nothing in these seconds."""
    return now[0] - before[0] < LEAST_COMPUTING * seconds and now[1] == before[1]


def used(pid: int) -> Used | None:
    """None when there is no such process. Bytes are 0 where the system does not tell them."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        try:
            read = process.io_counters().read_bytes
        except (AttributeError, psutil.AccessDenied):
            read = 0
        return times.user + times.system, read
    except psutil.NoSuchProcess:
        return None
