"""`kill -9` of the gateway and of a runner: jobs survive, finished pictures are kept, processes do not stay behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import psutil

from api_server import Server, Until

BODY = {"model": "tiny", "prompt": "slow", "width": 64, "height": 64, "steps": 150, "count": 16, "seed": 3}


def job(server: Server, id: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/api/jobs/{id}", timeout=30).json()
    return found


def runner_pid(server: Server) -> int | None:
    """Of the runner that is at work; None while it is being started."""
    runners = httpx.get(f"{server.url}/api/system", timeout=30).json()["runners"]
    return runners[0]["pid"] if runners and runners[0]["running"] else None


def test_kill_of_the_gateway_and_of_the_runner(tmp_path: Path, model_folder: Path, until: Until) -> None:
    settings = {"model_dirs": [str(model_folder)], "warm_spare": False, "image_batch": 4}
    server = Server(tmp_path / "data", **settings)
    server.wait()
    id = httpx.post(f"{server.url}/api/jobs", json=BODY).json()["id"]
    before = until(lambda: job(server, id)["artifacts"])
    runner = until(lambda: runner_pid(server))
    server.stop(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(runner))  # a runner never outlives its gateway
    folder = tmp_path / "data" / "artifacts" / id
    kept = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    assert len(before) <= len(kept) < BODY["count"]  # type: ignore[operator]

    server = Server(tmp_path / "data", **settings)
    try:
        server.wait()
        more = until(lambda: len(now := job(server, id)["artifacts"]) > len(before) and now)
        assert [item["index"] for item in before] == [item["index"] for item in more[:len(before)]]
        os.kill(until(lambda: runner_pid(server)), signal.SIGKILL)
        done = until(lambda: (now := job(server, id))["state"] == "succeeded" and now, 120)
        assert done["attempts"] == 3
        assert [item["index"] for item in done["artifacts"]] == list(range(16))
        assert [item["seed"] for item in done["artifacts"]] == [3 + index for index in range(16)]
        recorded = [f"{item['index']:03d}.png" for item in before]
        assert {name: (folder / name).stat().st_mtime_ns for name in recorded} == {
            name: kept[name] for name in recorded}  # those that were told are not made again
    finally:
        assert server.stop() == 0
    assert "Traceback" not in server.log
