"""SIGTERM in the middle of work: what runs is finished within the grace time, or queued again and done later."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from api_server import Server
from diptych.core.jobs import Job, JobState
from diptych.settings import Settings
from diptych.store.jobs import JobStore

Until = Callable[..., Any]
PICTURE = {"model": "tiny", "prompt": "slow", "width": 64, "height": 64, "steps": 150, "count": 4, "seed": 3}
ENDLESS = {**PICTURE, "steps": 1000, "count": 16, "width": 256, "height": 256}
STORY = {"model": "starter-text", "prompt": "one, two, three, four, five,", "max_tokens": 700, "temperature": 0,
         "stream": True}
"""Goes on for 460 tokens."""


def started(folder: Path, models: Path, **settings: Any) -> Any:
    server = Server(folder / "data", model_dirs=[str(models)], warm_spare=False, **settings)
    server.wait()
    return server


def on_record(server: Any, id: str) -> Job:
    store = JobStore(Settings(data_dir=server.data_dir).url)
    try:
        return store.get(id)
    finally:
        store.close()


def at_work(server: Any, until: Until, body: dict[str, Any] = PICTURE) -> str:
    """A job that has done some of its steps."""
    id: str = httpx.post(f"{server.url}/api/jobs", json=body).raise_for_status().json()["id"]
    until(lambda: httpx.get(f"{server.url}/api/jobs/{id}").json()["progress"] > 0)
    return id


class Story(threading.Thread):
    """A streamed answer, read to its end."""

    def __init__(self, url: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, {**STORY, **more}
        self.begun = threading.Event()
        self.data: list[str] = []
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", f"{self._url}/v1/completions", json=self._body, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.data.append(line[6:])
                    if len(self.data) > 3:
                        self.begun.set()


def test_what_runs_is_finished_within_the_grace_time(tmp_path: Path, model_folder: Path, until: Until) -> None:
    server = started(tmp_path, model_folder, shutdown_grace_seconds=120)
    httpx.post(f"{server.url}/api/models/load", json={"model": "starter-text"}, timeout=60).raise_for_status()
    id = at_work(server, until)
    story = Story(server.url, max_tokens=60)
    assert story.begun.wait(60)
    server.process.send_signal(signal.SIGTERM)
    jobs = f"{server.url}/api/jobs"
    refused = until(lambda: (answer := httpx.post(jobs, json=PICTURE)).status_code == 503 and answer)
    assert refused.json()["error"]["code"] == "server_ending"
    assert int(refused.headers["retry-after"]) >= 1
    ready = httpx.get(f"{server.url}/ready")
    assert (ready.status_code, ready.json()["checks"]["accepting"]) == (503, "the server ends")
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/api/jobs/{id}").status_code == 200
    assert server.process.wait(100) == 0
    story.join(10)
    assert story.data[-1] == "[DONE]"
    job = on_record(server, id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert [file.index for file in job.artifacts] == [0, 1, 2, 3]
    assert "Traceback" not in server.log


def test_without_grace_the_job_is_queued_again_and_done_later(
    tmp_path: Path, model_folder: Path, until: Until,
) -> None:
    server = started(tmp_path, model_folder, shutdown_grace_seconds=0, image_batch=2)
    httpx.post(f"{server.url}/api/models/load", json={"model": "starter-text"}, timeout=60).raise_for_status()
    body = {**PICTURE, "count": 6, "steps": 300}
    id = at_work(server, until, body)
    queued = httpx.post(f"{server.url}/api/jobs", json={**PICTURE, "steps": 2, "count": 1}).json()["id"]
    story = Story(server.url)
    assert story.begun.wait(60)
    followed: list[str] = []
    closed: list[int] = []
    followers = [threading.Thread(target=follow, args=(server.url, id, followed), daemon=True),
                 threading.Thread(target=follow_socket, args=(server.url, id, closed), daemon=True)]
    for thread in followers:
        thread.start()
    until(lambda: followed)
    began = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 20
    for thread in (story, *followers):
        thread.join(10)
    assert json.loads(story.data[-1])["error"]["code"] == "server_ending"
    assert json.loads(followed[-1])["error"]["code"] == "server_ending"
    assert closed == [1012]
    job = on_record(server, id)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    assert "Traceback" not in server.log

    kept = {file.name: file.stat().st_mtime_ns for file in (server.data_dir / "artifacts" / id).glob("*.png")}
    recorded = [Path(file.path).name for file in job.artifacts]
    again = started(tmp_path, model_folder)
    try:
        done = until(lambda: (now := httpx.get(f"{again.url}/api/jobs/{id}").json())["state"] == "succeeded" and now)
        assert done["attempts"] == 1
        assert [file["index"] for file in done["artifacts"]] == list(range(6))
        assert [file["seed"] for file in done["artifacts"]] == [3 + index for index in range(6)]
        folder = server.data_dir / "artifacts" / id
        assert all((folder / name).stat().st_mtime_ns == kept[name] for name in recorded)
        until(lambda: httpx.get(f"{again.url}/api/jobs/{queued}").json()["state"] == "succeeded")
        everyone = httpx.get(f"{again.url}/api/jobs").json()["jobs"]
        assert sorted(job["id"] for job in everyone) == sorted([id, queued])
    finally:
        assert again.stop() == 0


def follow(url: str, id: str, data: list[str]) -> None:
    with httpx.stream("GET", f"{url}/api/jobs/{id}/events", timeout=120) as answer:
        data.extend(line[6:] for line in answer.iter_lines() if line.startswith("data: "))


def follow_socket(url: str, id: str, closed: list[int]) -> None:
    with connect(f"{url.replace('http', 'ws')}/api/jobs/{id}/events/ws") as socket:
        try:
            while True:
                socket.recv(timeout=60)
        except ConnectionClosed as end:
            closed.append(end.rcvd.code if end.rcvd else 0)


def test_a_second_signal_ends_at_once(tmp_path: Path, model_folder: Path, until: Until) -> None:
    server = started(tmp_path, model_folder, shutdown_grace_seconds=600)
    id = at_work(server, until, ENDLESS)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
    time.sleep(1)
    assert server.process.poll() is None  # it waits for the picture
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) in (0, 1)
    assert time.monotonic() - began < 12
    assert on_record(server, id).state in (JobState.QUEUED, JobState.RUNNING)
