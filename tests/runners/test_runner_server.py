"""The runner process from outside: real processes, real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from toy_engine import ENGINE, card, order

from diptych.core.events import Failed, Finished, Progress, TokenDelta
from diptych.runners.local import Launcher, Runner
from diptych.settings import Settings

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        await asyncio.sleep(0.02)
    return condition()


async def idle(runner: Runner) -> bool:
    """Whether the runner has ended all its runs, within five seconds."""
    for _ in range(100):
        if (await runner.client.health()).running == 0:
            return True
        await asyncio.sleep(0.05)
    return False


def raw(runner: Runner, token: str | None = None) -> httpx.AsyncClient:
    """A client that sends what our own never would."""
    http = runner.client._http
    headers = dict(http.headers) if token is None else {"authorization": token}
    return httpx.AsyncClient(base_url=http.base_url, headers=headers, trust_env=False)


async def test_every_route_needs_the_token(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    for token in ("", "Bearer wrong", "bearer"):
        async with raw(runner, token) as http:
            for method, path in (("GET", "/health"), ("POST", "/load"), ("POST", "/run"), ("POST", "/cancel/x"),
                                 ("POST", "/shutdown"), ("GET", "/nowhere")):
                answer = await http.request(method, path)
                assert answer.status_code == 401
                assert answer.json()["error"]["type"] == "authentication_error"
    assert (await runner.client.health()).state == "ready"


@pytest.mark.parametrize(("body", "param"), [
    ("", None), ("{", None), ("[]", None), ("null", None), ('{"id": "a"}', "spec"),
    ('{"id": "a", "spec": {"kind": "poem"}}', "spec"),
    ('{"id": "a", "spec": {"kind": "completion"}}', "spec.completion.prompt"),
    ('{"id": "a", "spec": {"kind": "completion", "prompt": "x", "sampling": {"top_p": 2}}}',
     "spec.completion.sampling.top_p"),
    ('{"id": "a", "spec": {"kind": "completion", "prompt": "\\ud800"}}', None),
    ('{"id": "a", "spec": {"kind": "image", "prompt": "x", "steps": NaN}}', "spec.image.steps"),
])
async def test_malformed_runs_are_refused(launcher: Launcher, body: str, param: str | None) -> None:
    runner = await launcher.start(card(), 1)
    async with raw(runner) as http:
        answer = await http.post("/run", content=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert error["message"] and "Traceback" not in answer.text
    assert (await runner.client.health()).running == 0


async def test_routes_and_states_that_do_not_fit(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    async with raw(runner) as http:
        assert (await http.get("/nowhere")).status_code == 404
        assert (await http.get("/run")).status_code == 405
        again = await http.post("/load", content=json.dumps({"card": card().model_dump(), "threads": 1}))
        assert again.status_code == 409 and "'toy'" in again.json()["error"]["message"]
        first = asyncio.ensure_future(anext(runner.client.run(order("count 100 0.05", "same"))))
        await first
        twice = await http.post("/run", content=order("count 1 0", "same").model_dump_json())
        assert twice.status_code == 409 and twice.json()["error"]["param"] == "id"


async def test_events_come_while_the_run_goes_on(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    events, times = [], []
    async for event in runner.client.run(order("count 4 0.2")):
        events.append(event)
        times.append(time.monotonic())
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4]
    assert events[-1] == Finished()
    assert times[-1] - times[0] > 0.4  # not all of them at the end


async def test_a_flood_is_merged_and_no_text_is_lost(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    events = [event async for event in runner.client.run(order("flood 20000"))]
    text = "".join(event.text for event in events if isinstance(event, TokenDelta))
    assert text == "".join(f"{step} " for step in range(20000))
    assert [event for event in events if isinstance(event, Progress)][-1].step == 20000
    assert len(events) < 10000


async def test_a_dropped_connection_cancels_the_run(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    stream = runner.client.run(order("count 1000 0.05", "dropped"))
    await anext(stream)
    assert (await runner.client.health()).running == 1
    await stream.aclose()
    assert await idle(runner)
    # The engine heard of it, too: the same id can run again, alone.
    events = [event async for event in runner.client.run(order("count 1 0", "dropped"))]
    assert events[-1] == Finished()


async def test_cancel(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    assert await runner.client.cancel("nobody") is False
    events = []
    async for event in runner.client.run(order("count 1000 0.02", "mine/../odd id")):
        events.append(event)
        if len(events) == 2:
            assert await runner.client.cancel("mine/../odd id") is True
    assert events[-1] == Finished(reason="cancelled")


async def test_a_run_over_its_time_fails_with_504(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    events = [event async for event in runner.client.run(order("count 1000 0.05", timeout_seconds=0.3))]
    last = events[-1]
    assert isinstance(last, Failed)
    assert (last.status, last.code, last.retryable) == (504, "timeout", False) and "0.3 s" in last.message


async def test_faults_of_the_engine_reach_the_client_in_words(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    refused = [event async for event in runner.client.run(order("refuse"))]
    assert refused == [Failed(message="prompt is 'refuse', which is refused", status=400, param="prompt",
                              code="invalid_value")]
    (broken,) = [event async for event in runner.client.run(order("break"))]
    assert isinstance(broken, Failed) and broken.status == 500 and "ZeroDivisionError" in broken.message
    assert "Traceback" not in broken.message
    deadline = time.monotonic() + 10  # the log is written beside the answer
    while "a bug of the engine" not in runner.log.read_text() and time.monotonic() < deadline:
        await asyncio.to_thread(time.sleep, 0.05)
    assert "a bug of the engine" in runner.log.read_text()
    assert [event async for event in runner.client.run(order("count 1 0"))][-1] == Finished()


async def test_an_unknown_engine_says_so(settings: Settings) -> None:
    from diptych.core.errors import Unavailable

    for engine, word in (("nonsense", "llamacpp"), ("no_such_module:Engine", "no_such_module")):
        launcher = Launcher(settings, engine_of=lambda card, engine=engine: engine)
        with pytest.raises(Unavailable, match=word):
            await launcher.start(card(), 1)
        await launcher.close()


async def test_memory_is_the_process_s_own(launcher: Launcher) -> None:
    ballast = bytearray(os.urandom(1024)) * (300 * 1024)  # 300 MB that the child must not report as its peak
    runner = await launcher.start(card(), 1)
    health = await runner.client.health()
    measured = psutil.Process(runner.process.pid).memory_info().rss
    assert len(ballast) > health.bytes_peak >= health.bytes_resident > 0
    assert abs(health.bytes_resident - measured) < 32 * 1024 * 1024


async def test_shutdown_ends_open_streams(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    stream = runner.client.run(order("count 1000 0.05"))
    await anext(stream)
    await runner.client.shutdown()
    assert [event async for event in stream][-1] == Finished(reason="cancelled")
    assert await asyncio.wait_for(runner.process.wait(), 10) == 0


async def test_no_token_no_process() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DIPTYCH_RUNNER_TOKEN"}
    command = [sys.executable, "-m", "diptych.engines.server", "--engine", ENGINE]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "DIPTYCH_RUNNER_TOKEN" in done.stderr and done.stdout == ""


PARENT = """
import asyncio, sys
from pathlib import Path
from diptych.runners.local import Launcher
from diptych.settings import Settings
from toy_engine import ENGINE, card, order

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]))
    launcher = Launcher(settings, engine_of=lambda card: ENGINE, spare_engine=ENGINE)
    busy, lazy = await launcher.start(card(), 1), await launcher.start(card(), 1)
    await anext(busy.client.run(order("count 100000 0.05")))
    spare = await launcher._spare
    print(busy.process.pid, lazy.process.pid, spare.process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_kill_9_of_the_gateway_leaves_no_orphan(settings: Settings, tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        pids = [int(word) for word in (await parent.stdout.readline()).split()]
        assert len(pids) == 3 and all(running(pid) for pid in pids)
    finally:
        parent.kill()
        await parent.wait()
    assert await until(lambda: not any(running(pid) for pid in pids))


def running(pid: int) -> bool:
    """A zombie has ended: only nobody has asked for its status yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
