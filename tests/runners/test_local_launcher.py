"""Start, spare and end of runner processes."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest
from toy_engine import ENGINE, card, order

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Failed, Finished, TokenDelta
from diptych.runners import client as client_module
from diptych.runners import local as local_module
from diptych.runners.local import Launcher, engine_of, runner_environment
from diptych.runners.logs import last_words, prune_logs
from diptych.settings import Settings

pytestmark = pytest.mark.anyio


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


async def test_start_and_stop(launcher: Launcher) -> None:
    before = len(children())
    runner = await launcher.start(card(), 1)
    assert (await runner.client.health()).model == "toy"
    assert len(children()) == before + 1
    await runner.stop()
    await runner.stop()
    assert runner.process.returncode == 0
    assert len(children()) == before
    with pytest.raises(Unavailable):
        await runner.client.health()
    assert [event async for event in runner.client.run(order("count 1 0"))] == [
        Failed(message="the runner has ended", code="runner_died", retryable=True)]


async def test_a_runner_that_dies_while_it_runs(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)
    events = [event async for event in runner.client.run(order("die"))]
    assert events[0] == TokenDelta(text="last words")
    last = events[-1]
    assert isinstance(last, Failed) and last.retryable and last.status == 503
    assert "SIGKILL" in last.message and "out of cheese" in last.message
    await runner.stop()


@pytest.mark.parametrize(("path", "words"), [
    ("broken", "cut short"), ("bug", "ZeroDivisionError: a bug"), ("crash", "status 7"),
])
async def test_a_model_that_does_not_load(launcher: Launcher, path: str, words: str) -> None:
    before = len(children())
    with pytest.raises(Unavailable, match=words):
        await launcher.start(card(path), 1)
    assert len(children()) == before


async def test_a_model_that_takes_too_long(tmp_path: Path, settings: Settings) -> None:
    before = len(children())
    hasty = settings.model_copy(update={"runner_start_seconds": 1.5})
    launcher = Launcher(hasty, engine_of=lambda card: ENGINE)
    with pytest.raises(Unavailable, match=r"within 1\.5 s"):
        await launcher.start(card(), 1, {"load_seconds": 30})
    await launcher.close()
    assert len(children()) == before


async def test_a_start_that_is_cancelled_leaves_nothing(launcher: Launcher) -> None:
    before = len(children())
    start = asyncio.ensure_future(launcher.start(card(), 1, {"load_seconds": 30}))
    await asyncio.sleep(1.5)
    assert len(children()) == before + 1
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert len(children()) == before


async def test_the_spare_is_taken_and_replaced(settings: Settings) -> None:
    launcher = Launcher(settings.model_copy(update={"warm_spare": True}), engine_of=lambda card: ENGINE,
                        spare_engine=ENGINE)
    before = len(children())
    launcher.warm()
    launcher.warm()
    assert launcher._spare is not None
    spare = await launcher._spare
    for _ in range(200):
        if (await spare.client.health()).state == "spare":
            break
        await asyncio.sleep(0.05)
    runner = await launcher.start(card(), 1)
    assert runner is spare and runner.card == card()
    assert launcher._spare is not None
    following = await launcher._spare
    assert following is not spare and len(children()) == before + 2
    following.process.kill()
    await following.exited.wait()
    other = await launcher.start(card(), 1)  # a spare that died is not served
    assert (await other.client.health()).state == "ready"
    await launcher.close()
    assert len(children()) == before


async def test_a_process_that_hears_nothing_is_killed(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SHUTDOWN_SECONDS", 0.3)
    monkeypatch.setattr(local_module, "POLITE_SECONDS", 0.3)
    monkeypatch.setattr(local_module, "TERMINATE_SECONDS", 0.3)
    runner = await launcher.start(card(), 1)
    runner.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    await runner.stop()
    assert runner.process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 10


async def test_many_runs_over_one_pool(launcher: Launcher) -> None:
    runner = await launcher.start(card(), 1)

    async def one(number: int) -> object:
        return [event async for event in runner.client.run(order("count 2 0.3", f"run-{number}"))][-1]

    began = time.monotonic()
    assert await asyncio.gather(*(one(number) for number in range(120))) == [Finished()] * 120
    assert time.monotonic() - began < 30  # one after another they would take 72 s


async def test_the_log_folder_cannot_be_written(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").write_text("")
    launcher = Launcher(settings.model_copy(update={"data_dir": tmp_path / "file"}), engine_of=lambda card: ENGINE)
    with pytest.raises(Unavailable, match="could not be started"):
        await launcher.start(card(), 1)


def test_engine_of() -> None:
    assert engine_of(card()) == "llamacpp"
    image = Card(id="a", panel="image", family="sd1", format="diffusers", path="a", bytes=0)
    assert engine_of(image) == "image"
    folder = Card(id="a", panel="text", family="transformers", format="safetensors", path="a", bytes=0)
    assert engine_of(folder) == "transformers"
    with pytest.raises(InvalidRequest, match="diffusers"):
        engine_of(folder.model_copy(update={"format": "diffusers"}))


def test_environment_bounds_the_threads() -> None:
    environment = runner_environment("secret", 3)
    assert environment["OMP_NUM_THREADS"] == "3" and environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["DIPTYCH_RUNNER_TOKEN"] == "secret"


def test_logs_are_bounded_and_their_end_is_told(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"runner-{number}.log").write_text("x")
        time.sleep(0.01)
    prune_logs(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runner-3.log", "runner-4.log"]
    log = tmp_path / "runner-4.log"
    log.write_text("Traceback (most recent call last):\n  File x\nOSError: no\n    at y\n\n")
    assert last_words(log) == "OSError: no"
    assert last_words(tmp_path / "none.log") == ""
