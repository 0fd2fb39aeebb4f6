"""`kill -9` of a runner in mid-picture, of the gateway in mid-queue, and of both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
from fault_studio import BODY, Talk, streamed

from conftest import Open

Undisturbed = Callable[[dict[str, Any]], list[str]]


def test_runner_killed_in_mid_picture_while_chat_goes_on(studio: Open, undisturbed: Undisturbed) -> None:
    one = studio()
    assert one.chat()
    id = one.submit()
    follower = one.follow(id)
    one.first_picture(id)
    talk, before = Talk(one), one.stamps(id)
    one.strike("tiny")
    job = one.ended(id)
    talk.enough()
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 2
    now = one.stamps(id)
    assert {index: now[index] for index in before} == before  # finished pictures were kept, not made again
    assert follower.told() == [0, 1, 2, 3]  # each was told once
    assert follower.kinds().count("finished") == 1
    assert len(set(talk.answers)) == 1
    assert not talk.refusals


def test_text_runner_killed_while_pictures_go_on(studio: Open, undisturbed: Undisturbed) -> None:
    one = studio()
    whole = one.chat()
    id = one.submit()
    one.first_picture(id)
    told = streamed(one, lambda number: number == 5 and one.strike("starter-text"))
    assert told[-1]["error"]["code"] == "runner_died"
    assert "SIGKILL" in told[-1]["error"]["message"]
    assert one.chat() == whole  # a new runner answers
    job = one.ended(id)
    assert one.hashes(job) == undisturbed(BODY)
    assert job["attempts"] == 1


def test_gateway_killed_in_mid_queue_then_with_its_runner(studio: Open, undisturbed: Undisturbed) -> None:
    one = studio()
    jobs = [one.submit(seed=seed) for seed in (3, 30)]
    one.first_picture(jobs[0])
    runner = one.runner("tiny")
    before = one.stamps(jobs[0])
    one.kill()
    one.until(lambda: not psutil.pid_exists(runner))  # a runner never outlives its gateway
    one.start()
    followers = [one.follow(id) for id in jobs]
    assert one.chat()
    for id, seed in zip(jobs, (3, 30), strict=True):
        assert one.hashes(one.ended(id)) == undisturbed({**BODY, "seed": seed})
    now = one.stamps(jobs[0])
    assert {index: now[index] for index in before} == before
    for follower in followers:
        assert follower.told() == [0, 1, 2, 3]
        assert follower.kinds().count("finished") == 1

    id = one.submit()
    one.first_picture(id)
    before = one.stamps(id)
    os.kill(one.runner("tiny"), signal.SIGKILL)
    one.kill()
    one.start()
    assert one.hashes(one.ended(id)) == undisturbed(BODY)
    now = one.stamps(id)
    assert {index: now[index] for index in before} == before
    assert len(one.http.get("/api/jobs").json()["jobs"]) == 3


def test_job_that_kills_its_runners_stops_alone_and_with_the_reason(studio: Open, undisturbed: Undisturbed) -> None:
    """The killer is this test: it kills every runner that the job is in, as a picture would that kills what makes it.
    The job beside it dies with it once, and then has an attempt without it."""
    one = studio(job_max_attempts=2)
    beside = {"X-Diptych-Caller": "somebody-else"}
    id = one.submit(steps=400)
    one.until(lambda: one.job(id)["progress"] > 0)
    neighbour = one.http.post("/api/jobs", json={**BODY, "steps": 200}, headers=beside).json()["id"]
    one.until(lambda: one.job(neighbour)["progress"] > 0)
    for attempt in (1, 2):
        one.until(lambda: (job := one.job(id))["progress"] > 0 and job["attempts"] == attempt)  # noqa: B023
        one.until(lambda: one.job(id)["state"] == "running")
        one.strike("tiny")
        one.until(lambda: (job := one.job(id))["attempts"] > attempt or job["state"] == "failed")  # noqa: B023
    job = one.ended(id)
    assert (job["state"], job["attempts"]) == ("failed", 2)
    assert "2 attempts" in job["error"]
    assert "SIGKILL" in job["error"]
    other = one.ended(neighbour)
    assert other["attempts"] == 2
    assert one.hashes(other) == undisturbed({**BODY, "steps": 200})
