"""`kill -9` of a runner in mid-picture, of the gateway in mid-queue, and of both."""

from __future__ import annotations

import os
import signal

import psutil
from fault_studio import BODY, Studio, Talk, Undisturbed, streamed


def test_runner_killed_in_mid_picture_while_chat_goes_on(studio: Studio, undisturbed: Undisturbed) -> None:
    calm, hello = undisturbed(), studio.chat()
    id = studio.submit()
    follower = studio.follow(id)
    studio.first_picture(id)
    talk, before = Talk(studio), studio.stamps(id)
    studio.strike("tiny")
    job = studio.ended(id)
    talk.enough()
    assert studio.hashes(job) == calm
    assert job["attempts"] == 2
    now = studio.stamps(id)
    assert {index: now[index] for index in before} == before  # finished pictures were kept, not made again
    assert follower.told() == [0, 1, 2, 3]  # each was told once
    assert follower.kinds().count("finished") == 1
    assert set(talk.answers) == {hello}
    assert not talk.refusals


def test_text_runner_killed_while_pictures_go_on(studio: Studio, undisturbed: Undisturbed) -> None:
    calm, hello = undisturbed(), studio.chat()
    id = studio.submit()
    studio.first_picture(id)
    told = streamed(studio, lambda number: number == 5 and studio.strike("starter-text"))
    assert told[-1]["error"]["code"] == "runner_died"
    assert "SIGKILL" in told[-1]["error"]["message"]
    assert studio.chat() == hello  # a new runner answers
    job = studio.ended(id)
    assert studio.hashes(job) == calm
    assert job["attempts"] == 1


def test_gateway_killed_in_mid_queue_then_with_its_runner(studio: Studio, undisturbed: Undisturbed) -> None:
    calm, others, known = undisturbed(), undisturbed(seed=30), len(all_jobs(studio))
    jobs = [studio.submit(seed=seed) for seed in (3, 30)]
    studio.first_picture(jobs[0])
    runner = studio.runner("tiny")
    before = studio.stamps(jobs[0])
    studio.kill()
    studio.until(lambda: not psutil.pid_exists(runner))  # a runner never outlives its gateway
    studio.start()
    followers = [studio.follow(id) for id in jobs]
    assert studio.chat()
    assert [studio.hashes(studio.ended(id)) for id in jobs] == [calm, others]
    now = studio.stamps(jobs[0])
    assert {index: now[index] for index in before} == before
    for follower in followers:
        assert follower.told() == [0, 1, 2, 3]
        assert follower.kinds().count("finished") == 1

    id = studio.submit()
    studio.first_picture(id)
    before = studio.stamps(id)
    os.kill(studio.runner("tiny"), signal.SIGKILL)
    studio.kill()
    studio.start()
    assert studio.hashes(studio.ended(id)) == calm
    now = studio.stamps(id)
    assert {index: now[index] for index in before} == before
    assert len(all_jobs(studio)) == known + 3


def all_jobs(studio: Studio) -> list[dict[str, object]]:
    found: list[dict[str, object]] = studio.http.get("/api/jobs", params={"limit": 1000}).json()["jobs"]
    return found


def test_job_that_kills_its_runners_stops_alone_and_with_the_reason(
    studio: Studio, undisturbed: Undisturbed,
) -> None:
    """The killer is this test: it kills every runner that the job is in, as a picture would that kills what makes it.
    The job beside it dies with it twice, and then has an attempt without it."""
    calm = undisturbed()
    id = studio.submit(steps=400)
    studio.until(lambda: studio.job(id)["progress"] > 0)
    beside = studio.http.post("/api/jobs", json=BODY, headers={"X-Diptych-Caller": "somebody-else"}).json()["id"]
    for attempt in (1, 2, 3):
        waited_for = (id, beside) if attempt < 3 else (id,)
        for one in waited_for:
            studio.until(lambda: (job := studio.job(one))["attempts"] == attempt and job["state"] == "running")  # noqa: B023
        studio.strike("tiny")
        studio.until(lambda: (job := studio.job(id))["attempts"] > attempt or job["state"] == "failed")  # noqa: B023
    job = studio.ended(id)
    assert (job["state"], job["attempts"]) == ("failed", 3)
    assert "3 attempts" in job["error"]
    assert "SIGKILL" in job["error"]
    other = studio.ended(beside)
    assert other["attempts"] == 3
    assert studio.hashes(other) == calm
