"""The text engine in its own process, from library to stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diptych.core.chat import Message
from diptych.core.errors import Unavailable
from diptych.core.events import Failed, Finished, TokenDelta
from diptych.core.protocol import RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling
from diptych.library import Library
from diptych.runners.local import Launcher, Runner
from diptych.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path, starter_text: Path) -> Settings:
    return Settings(data_dir=tmp_path, model_dirs=(starter_text.parents[1],), warm_spare=False)


@pytest.fixture
async def runner(settings: Settings) -> AsyncIterator[Runner]:
    launcher = Launcher(settings)
    yield await launcher.start(Library(settings).get("starter-text"), 1, {"slots": 2, "context": 512})
    await launcher.close()


async def test_chat_from_library_to_stream(runner: Runner) -> None:
    question = Message(role="user", content="What is the capital of France? Answer in one sentence.")
    spec = ChatSpec(messages=(question,), sampling=Sampling(temperature=0, max_tokens=24))
    many = [run(runner, RunRequest(id=f"run-{number}", spec=spec)) for number in range(3)]
    for events in await asyncio.gather(*many):
        assert "".join(event.text for event in events if isinstance(event, TokenDelta)) == (
            "The capital of France is Paris.")
        assert events[-1] == Finished()
    health = await runner.client.health()
    assert 100e6 < health.bytes_resident <= health.bytes_peak < 1e9
    lines = [json.loads(line) for line in runner.log.read_text().splitlines()]  # ours alone: no noise of llama.cpp
    assert {line["logger"].split(".")[0] for line in lines} == {"diptych"}


async def test_a_dropped_connection_frees_the_slot_and_a_kill_is_told(runner: Runner) -> None:
    endless = CompletionSpec(prompt="1 2 3 4", sampling=Sampling(temperature=0, max_tokens=480))
    stream = runner.client.run(RunRequest(id="dropped", spec=endless))
    await anext(stream)
    await stream.aclose()
    for _ in range(100):
        if (await runner.client.health()).running == 0:
            break
        await asyncio.sleep(0.02)
    assert (await runner.client.health()).running == 0
    stream = runner.client.run(RunRequest(id="killed", spec=endless))
    await anext(stream)
    runner.process.kill()
    last = [event async for event in stream][-1]
    assert isinstance(last, Failed) and last.retryable and "SIGKILL" in last.message


@pytest.fixture
def cut(starter_text: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cut.gguf"
    path.write_bytes(starter_text.read_bytes()[:2_000_000])
    return path


async def test_a_damaged_file_is_told_in_words(settings: Settings, cut: Path) -> None:
    card = Library(settings).get("starter-text")
    launcher = Launcher(settings)
    with pytest.raises(Unavailable, match=r"cut\.gguf.*damaged"):
        await launcher.start(card.model_copy(update={"path": str(cut)}), 1, {"slots": 1, "context": 512})
    await launcher.close()


async def run(runner: Runner, request: RunRequest) -> list[object]:
    return [event async for event in runner.client.run(request)]
