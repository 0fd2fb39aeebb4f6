"""Processes that are stopped (SIGSTOP): a runner in a step, in health, in load; the gateway itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
from fault_studio import BODY, Studio, Talk

from conftest import Open

HANG_SECONDS = 2
Undisturbed = Callable[[dict[str, Any]], list[str]]


def stop_a_new_runner(one: Studio, known: set[int]) -> int:
    """Stop a runner that is just being started, before it holds its model."""
    pid: int = one.until(lambda: next((child.pid for child in one.children() if child.pid not in known), None))
    one.until(lambda: psutil.Process(pid).cpu_times().user > 0.3)  # it has told its port and imports its libraries
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_runner_that_hangs_is_replaced(studio: Open, undisturbed: Undisturbed) -> None:
    one = studio(runner_hang_seconds=HANG_SECONDS)
    hello = one.chat()
    id = one.submit()
    follower = one.follow(id)
    one.first_picture(id)
    before = one.stamps(id)
    stopped = one.strike("tiny", signal.SIGSTOP)  # in a step
    talk = Talk(one)
    one.until(lambda: not psutil.pid_exists(stopped))
    known = {child.pid for child in one.children()}
    job = one.ended(id)
    talk.enough()
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 2
    assert {index: one.stamps(id)[index] for index in before} == before
    assert follower.told() == [0, 1, 2, 3]
    assert set(talk.answers) == {hello}
    assert not talk.refusals

    stopped = one.strike("starter-text", signal.SIGSTOP)  # while it only answers for its health
    one.until(lambda: not psutil.pid_exists(stopped))
    assert one.chat() == hello

    one.http.post("/api/models/unload", json={"model": "tiny"}).raise_for_status()
    known = {child.pid for child in one.children()}
    again = one.submit()
    stopped = stop_a_new_runner(one, known)  # while it loads
    assert one.chat() == hello
    job = one.ended(again)
    assert not psutil.pid_exists(stopped)
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 2


def test_gateway_that_is_stopped_and_a_runner_that_always_hangs(studio: Open, undisturbed: Undisturbed) -> None:
    one = studio(runner_hang_seconds=HANG_SECONDS, job_max_attempts=1)
    id = one.submit()
    follower = one.follow(id)
    one.first_picture(id)
    runner = one.runner("tiny")
    os.kill(one.pid, signal.SIGSTOP)
    time.sleep(2 * HANG_SECONDS + 1)
    os.kill(one.pid, signal.SIGCONT)
    job = one.ended(id)
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 1
    assert one.runner("tiny") == runner  # nobody took it for hung
    assert follower.told() == [0, 1, 2, 3]
    assert follower.kinds().count("finished") == 1

    id = one.submit(steps=400)
    one.until(lambda: one.job(id)["progress"] > 0)
    one.strike("tiny", signal.SIGSTOP)
    job = one.ended(id)
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert "hung" in job["error"]
