"""Processes that are stopped (SIGSTOP): a runner in a step, in health, in load; the gateway itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_studio import Studio, Talk, Undisturbed, opened

HANG_SECONDS = 2.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Studio]:
    """A studio that takes a runner for hung after two seconds, and tries everything twice."""
    with opened(tmp_path_factory.mktemp("impatient") / "data", model_folder, runner_hang_seconds=HANG_SECONDS,
                job_max_attempts=2) as one:
        yield one


def test_gateway_that_is_stopped_and_goes_on(impatient: Studio, undisturbed: Undisturbed) -> None:
    calm = undisturbed()
    id = impatient.submit()
    follower = impatient.follow(id)
    impatient.first_picture(id)
    runner = impatient.runner("tiny")
    os.kill(impatient.pid, signal.SIGSTOP)
    time.sleep(2 * HANG_SECONDS + 1)
    os.kill(impatient.pid, signal.SIGCONT)
    job = impatient.ended(id)
    assert impatient.hashes(job) == calm
    assert job["attempts"] == 1
    assert impatient.runner("tiny") == runner  # nobody took it for hung
    assert follower.told() == [0, 1, 2, 3]
    assert follower.kinds().count("finished") == 1


def test_runner_that_hangs_in_a_step(impatient: Studio, undisturbed: Undisturbed) -> None:
    calm, hello = undisturbed(), impatient.chat()
    id = impatient.submit()
    follower = impatient.follow(id)
    impatient.first_picture(id)
    before = impatient.stamps(id)
    stopped = impatient.strike("tiny", signal.SIGSTOP)
    talk = Talk(impatient)
    impatient.until(lambda: not psutil.pid_exists(stopped))
    job = impatient.ended(id)
    talk.enough()
    assert impatient.hashes(job) == calm
    assert job["attempts"] == 2
    assert {index: impatient.stamps(id)[index] for index in before} == before
    assert follower.told() == [0, 1, 2, 3]
    assert set(talk.answers) == {hello}
    assert not talk.refusals


def test_runner_that_hangs_while_it_only_tells_its_health(impatient: Studio) -> None:
    hello = impatient.chat()
    stopped = impatient.strike("starter-text", signal.SIGSTOP)
    impatient.until(lambda: not psutil.pid_exists(stopped))
    assert impatient.chat() == hello


def stop_a_new_runner(studio: Studio, known: set[int]) -> int:
    """Stop a runner that is just being started, before it holds its model."""
    pid: int = studio.until(lambda: next((child.pid for child in studio.children() if child.pid not in known), None))
    studio.until(lambda: psutil.Process(pid).cpu_times().user > 0.5)  # it has told its port, and imports its libraries
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_runner_that_hangs_in_load_then_in_every_attempt(impatient: Studio) -> None:
    hello = impatient.chat()
    impatient.http.post("/api/models/unload", json={"model": "tiny"})
    known = {child.pid for child in impatient.children()}
    id = impatient.submit(steps=400)
    stopped = stop_a_new_runner(impatient, known)
    assert impatient.chat() == hello
    impatient.until(lambda: not psutil.pid_exists(stopped))
    impatient.until(lambda: (job := impatient.job(id))["attempts"] == 2 and job["state"] == "running")
    impatient.strike("tiny", signal.SIGSTOP)
    job = impatient.ended(id)
    assert (job["state"], job["attempts"]) == ("failed", 2)
    assert "hung" in job["error"]
