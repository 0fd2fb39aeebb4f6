"""The dispatcher with real runner processes: jobs, deaths, cancels, memory, chat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from dispatch_studio import Open, Studio

from diptych.core.errors import Conflict, DiptychError, InvalidRequest, NotFound, Unavailable
from diptych.core.events import ArtifactReady, Failed, Finished, Progress, Queued, Started, TokenDelta
from diptych.core.jobs import Job, JobState
from diptych.core.specs import CompletionSpec

pytestmark = pytest.mark.anyio


async def events_of(studio: Studio, job: Job) -> list[object]:
    return [event async for event in studio.dispatcher.events(job.id)]


async def test_a_job_from_submit_to_its_pictures(open_studio: Open) -> None:
    studio = await open_studio()
    job = await studio.submit("wait 0.05", count=3, seed=-1)
    assert job.spec.seed >= 0
    assert (job.spec.width, job.spec.height) == (128, 128)
    told = await events_of(studio, job)
    kinds = [type(event) for event in told]
    assert {Started, Progress, ArtifactReady} <= set(kinds)
    assert kinds.index(Started) < kinds.index(ArtifactReady)
    assert told[-1] == Finished()
    done = studio.store.get(job.id)  # whoever hears of the end finds it in the store
    assert (done.state, done.attempts, done.progress) == (JobState.SUCCEEDED, 1, 1.0)
    assert [file.path for file in done.artifacts] == [f"{job.id}/{index:03d}.png" for index in range(3)]
    assert all((studio.settings.artifacts_dir / file.path).is_file() for file in done.artifacts)
    assert done.metrics["steps_per_second"] == 100.0
    late = await events_of(studio, job)
    assert [event.path for event in late if isinstance(event, ArtifactReady)] == [
        file.path for file in done.artifacts]
    assert late[-1] == Finished()


async def test_jobs_of_one_model_run_together_on_one_runner(open_studio: Open) -> None:
    studio = await open_studio(image_batch=4)
    jobs = [await studio.submit("wait 0.1", steps=6) for _ in range(4)]
    for job in jobs:
        await studio.until(job)
    done = [studio.store.get(job.id) for job in jobs]
    starts, ends = [job.started_at for job in done], [job.finished_at for job in done]
    assert max(starts) < min(ends)  # type: ignore[type-var]
    assert len(studio.dispatcher.runners()) == 1


async def test_a_dead_runner_is_replaced_and_finished_pictures_stay(open_studio: Open) -> None:
    studio = await open_studio()
    job = await studio.submit("die-once", count=3)
    told = await events_of(studio, job)
    done = studio.store.get(job.id)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 2)
    assert studio.made(job) == [0, 1, 2]  # none was painted twice
    assert [event.attempt for event in told if isinstance(event, Started)] == [1, 2]


async def test_a_job_that_kills_its_runners_stops_and_says_why(open_studio: Open) -> None:
    studio = await open_studio(job_max_attempts=2)
    job = await studio.submit("die", count=9)
    neighbour = await studio.submit("wait 0.01")
    failed = await studio.until(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 2)
    assert failed.error is not None
    assert "2" in failed.error
    assert "SIGKILL" in failed.error
    assert [file.index for file in failed.artifacts] == [0, 1]
    assert (await studio.until(neighbour)).state is JobState.SUCCEEDED


async def test_a_fault_of_the_request_is_not_tried_again(open_studio: Open) -> None:
    studio = await open_studio()
    refused, failed, lazy = [await studio.submit(prompt) for prompt in ("refuse", "fail", "lazy")]
    for job, words in ((refused, "which is refused"), (failed, "the paint is out"), (lazy, "0 of 1")):
        end = await studio.until(job)
        assert (end.state, end.attempts) == (JobState.FAILED, 1)
        assert words in (end.error or "")
    assert studio.store.get(refused.id).error_status == 400


async def test_cancel_queued_running_and_just_started(open_studio: Open) -> None:
    studio = await open_studio(image_batch=1)
    running = await studio.submit("wait 0.1", count=3, steps=3)
    queued = await studio.submit("wait 0.1", steps=100)
    watcher = asyncio.create_task(events_of(studio, queued))
    await studio.until(running, JobState.RUNNING)
    await studio.until_painted(running)
    assert (await studio.dispatcher.cancel(queued.id)).state is JobState.CANCELLED
    told = await watcher
    assert isinstance(told[0], Queued)
    assert told[-1] == Finished(reason="cancelled")
    await studio.dispatcher.cancel(running.id)
    ended = await studio.until(running)
    assert ended.state is JobState.CANCELLED
    assert ended.artifacts
    with pytest.raises(Conflict):
        await studio.dispatcher.cancel(running.id)
    for delay in (0, 0, 0.01, 0.02, 0.05, 0.1):  # a cancel that meets every moment of a start
        job = await studio.submit("wait 0.05", steps=200)
        await asyncio.sleep(delay)
        await studio.dispatcher.cancel(job.id)
        assert (await studio.until(job, seconds=5)).state is JobState.CANCELLED
    with pytest.raises(NotFound):
        await studio.dispatcher.cancel("nobody")


async def test_a_cancel_holds_although_the_runner_dies(open_studio: Open) -> None:
    studio = await open_studio()
    job = await studio.submit("wait 0.05", steps=400)
    await studio.until(job, JobState.RUNNING)
    os.kill(studio.pid(), signal.SIGSTOP)
    cancel = asyncio.create_task(studio.dispatcher.cancel(job.id))
    await asyncio.sleep(0.1)
    os.kill(studio.pid(), signal.SIGKILL)
    await cancel
    assert (await studio.until(job)).state is JobState.CANCELLED


async def test_unloading_puts_its_jobs_back(open_studio: Open) -> None:
    studio = await open_studio()
    job = await studio.submit("wait 0.1", count=2, steps=5)
    await studio.until_painted(job)
    first = studio.pid()
    await studio.dispatcher.unload("paint")
    assert (await studio.until(job)).state is JobState.SUCCEEDED
    assert studio.made(job) == [0, 1]
    assert studio.pid() != first
    await studio.dispatcher.unload("paint")
    with pytest.raises(Conflict, match="not loaded"):
        await studio.dispatcher.unload("paint")


async def test_a_stop_puts_running_jobs_back_and_the_next_start_ends_them(open_studio: Open) -> None:
    studio = await open_studio(job_max_attempts=1)
    job = await studio.submit("wait 0.1", count=3, steps=4)
    await studio.until_painted(job)
    pid = studio.pid()
    await studio.dispatcher.stop()
    stopped = studio.store.get(job.id)
    assert (stopped.state, stopped.attempts) == (JobState.QUEUED, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    again = await open_studio(job_max_attempts=1)
    assert (await again.until(job)).state is JobState.SUCCEEDED
    assert sorted(set(again.made(job))) == [0, 1, 2]


async def test_memory_for_one_serves_two_models_in_turn(open_studio: Open) -> None:
    studio = await open_studio(memory_bytes=700 * 2**20)
    first = await studio.submit("wait 0.05")
    second = await studio.submit("wait 0.05", model="other")
    third = await studio.submit("wait 0.05")
    for job in (first, second, third):
        assert (await studio.until(job)).state is JobState.SUCCEEDED
    assert sum(info.bytes_leased for info in studio.dispatcher.runners()) <= 700 * 2**20


async def test_who_no_longer_waits_for_memory_does_not_hold_up_others(
    open_studio: Open, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diptych.schedule.pool.PATIENCE_SECONDS", 0.2)
    studio = await open_studio(memory_bytes=700 * 2**20, image_batch=1)
    long = await studio.submit("wait 0.1", steps=20)
    await studio.until(long, JobState.RUNNING)
    waiting = await studio.submit("wait 0.1", model="other")
    await asyncio.sleep(0.5)
    await studio.dispatcher.cancel(waiting.id)
    next_one = await studio.submit("wait 0.01")
    assert (await studio.until(next_one, seconds=20)).state is JobState.SUCCEEDED


async def test_a_model_that_cannot_fit_is_refused_at_once(open_studio: Open) -> None:
    studio = await open_studio(memory_bytes=2**20)
    with pytest.raises(InvalidRequest, match="budget"):
        await studio.submit("wait 0")
    with pytest.raises(NotFound, match="talk"):
        await studio.submit("wait 0", model="nothing")
    with pytest.raises(InvalidRequest):
        await studio.submit("wait 0", model="talk")


async def test_a_broken_model_fails_its_jobs_and_is_tried_again_later(open_studio: Open) -> None:
    studio = await open_studio()
    jobs = [await studio.submit("wait 0", model="broken") for _ in range(3)]
    for job in jobs:
        failed = await studio.until(job)
        assert failed.state is JobState.FAILED
        assert "cut short" in (failed.error or "")
    with pytest.raises(DiptychError, match="cut short"):
        await studio.dispatcher.load("broken")
    assert studio.dispatcher.runners() == []


async def test_a_model_that_crashes_while_it_loads(open_studio: Open) -> None:
    studio = await open_studio(job_max_attempts=2)
    once = await studio.submit("wait 0", model="crash-once")
    always = await studio.submit("wait 0", model="crash")
    assert (await studio.until(once)).state is JobState.SUCCEEDED
    failed = await studio.until(always)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 2)
    assert "status 7" in (failed.error or "")


async def test_a_job_over_its_time_is_ended(open_studio: Open) -> None:
    studio = await open_studio(job_timeout_seconds=0.5)
    job = await studio.submit("wait 0.1", steps=1000)
    failed = await studio.until(job)
    assert (failed.state, failed.error_status, failed.attempts) == (JobState.FAILED, 504, 1)
    assert "0.5 s" in (failed.error or "")


async def test_a_hung_runner_is_ended(open_studio: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.schedule.execution.GRACE_SECONDS", 0.5)
    studio = await open_studio(job_timeout_seconds=0.5, job_max_attempts=1)
    job = await studio.submit("hang")
    await studio.until(job, JobState.RUNNING)
    pid = studio.pid()
    failed = await studio.until(job)
    assert failed.state is JobState.FAILED
    assert "hung" in (failed.error or "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_idle_runner_ends(open_studio: Open) -> None:
    studio = await open_studio(runner_idle_seconds=0.5)
    await studio.until(await studio.submit("wait 0"))
    await studio.wait_for(lambda: not studio.dispatcher.runners())
    assert (await studio.until(await studio.submit("wait 0"))).state is JobState.SUCCEEDED


async def test_load_and_unload(open_studio: Open) -> None:
    studio = await open_studio()
    info = await studio.dispatcher.load("paint")
    assert (info.model, info.state, info.engine) == ("paint", "ready", "paint_engine:PaintEngine")
    assert info.bytes_resident > 10**6
    await studio.dispatcher.unload("paint")
    assert studio.dispatcher.runners() == []
    with pytest.raises(NotFound):
        await studio.dispatcher.load("nothing")


async def test_the_queue_tells_positions_and_times(open_studio: Open) -> None:
    studio = await open_studio(image_batch=1)
    await studio.until(await studio.submit("wait 0"))  # its speed is learnt: 100 steps per second
    await studio.until(await studio.submit("wait 0.1", steps=10), JobState.RUNNING)
    jobs = [await studio.submit("wait 0", steps=100, caller=caller) for caller in ("flood", "flood", "flood")]
    late = await studio.submit("wait 0", steps=100, caller="bob")
    queue = await studio.dispatcher.queue()
    order = [job.id for job, _, _ in queue]
    assert order.index(late.id) <= 1
    assert [position for _, position, _ in queue] == list(range(len(queue)))
    times = [eta for _, _, eta in queue]
    assert all(eta is not None for eta in times)
    assert times == sorted(times)  # type: ignore[type-var]
    for job in [*jobs, late]:
        assert (await studio.until(job)).state is JobState.SUCCEEDED


async def say(studio: Studio, prompt: str) -> str:
    spec = CompletionSpec(model="talk", prompt=prompt)
    events = [event async for event in studio.dispatcher.stream(spec, caller="ann")]
    assert events[-1] == Finished(), events
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


async def test_chat_uses_its_slots_and_no_more(open_studio: Open) -> None:
    studio = await open_studio(text_slots=2)
    await studio.dispatcher.load("talk")
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(sum(info.running for info in studio.dispatcher.runners()))
            await asyncio.sleep(0.01)

    looker = asyncio.create_task(look())
    assert await asyncio.gather(*(say(studio, "count 3 0.1") for _ in range(5))) == ["0 1 2 "] * 5
    looker.cancel()
    assert max(seen) == 2


async def test_a_client_who_leaves_frees_the_slot(open_studio: Open) -> None:
    studio = await open_studio(text_slots=1)
    stream = studio.dispatcher.stream(CompletionSpec(model="talk", prompt="count 1000 0.1"), caller="ann")
    assert isinstance(await anext(stream), TokenDelta)
    waiting = asyncio.create_task(say(studio, "count 1 0"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await stream.aclose()
    assert await asyncio.wait_for(waiting, 10) == "0 "


async def test_a_waiter_who_leaves_takes_no_slot(open_studio: Open) -> None:
    studio = await open_studio(text_slots=1)
    stream = studio.dispatcher.stream(CompletionSpec(model="talk", prompt="count 1000 0.1"), caller="ann")
    await anext(stream)
    waiting = [asyncio.create_task(say(studio, "count 1 0")) for _ in range(3)]
    await asyncio.sleep(0.1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await stream.aclose()
    assert await asyncio.wait_for(say(studio, "count 1 0"), 10) == "0 "
    (info,) = studio.dispatcher.runners()
    assert info.running == 0


async def test_chat_survives_a_runner_that_dies_before_its_first_word(open_studio: Open, tmp_path: Path) -> None:
    studio = await open_studio()
    assert await say(studio, f"die-once {tmp_path / 'mark'}") == "0 "
    spec = CompletionSpec(model="talk", prompt="die")
    events = [event async for event in studio.dispatcher.stream(spec, caller="ann")]
    assert isinstance(events[-1], Failed)
    assert events[-1].status == 503


async def test_chat_asks_for_text_models(open_studio: Open) -> None:
    studio = await open_studio()
    for model, error in (("paint", InvalidRequest), ("nothing", NotFound)):
        with pytest.raises(error) as caught:
            await anext(studio.dispatcher.stream(CompletionSpec(model=model, prompt="count 1 0"), caller="ann"))
        assert caught.value.param == "model"


async def test_all_who_wait_for_a_broken_text_model_are_told(open_studio: Open, data_dir: Path) -> None:
    (data_dir / "models" / "talk.gguf").rename(data_dir / "models" / "broken-talk.gguf")
    studio = await open_studio()

    async def ask() -> None:
        async for _ in studio.dispatcher.stream(CompletionSpec(model="broken-talk", prompt="count 1 0"), caller="a"):
            pass

    start = time.monotonic()
    results = await asyncio.gather(*(ask() for _ in range(6)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) and "cut short" in result.message for result in results), results
    assert len(list(studio.settings.logs_dir.glob("runner-*.log"))) == 1  # one attempt told them all
    assert time.monotonic() - start < 60
    with contextlib.suppress(Unavailable):
        await ask()
    assert len(list(studio.settings.logs_dir.glob("runner-*.log"))) == 2
