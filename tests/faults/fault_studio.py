"""A real gateway with all that the fault tests ask of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

import harness

BODY = {"model": "tiny", "prompt": "slow", "width": 64, "height": 64, "steps": 100, "count": 4, "seed": 3}
"""A job of about a second and a half on a quiet machine."""
FINAL = ("succeeded", "failed", "cancelled")
SETTINGS: dict[str, Any] = {
    "warm_spare": False, "image_batch": 1, "threads": 1, "text_context": 256, "text_slots": 2}
Undisturbed = Callable[..., list[str]]


class Studio(harness.Gateway):
    """A gateway; `submit`, `job`, `hashes` and `chat` speak to it over HTTP."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        super().__init__(data_dir, **settings)
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self._known: dict[str, list[str]] = {}

    def close(self) -> None:
        """End it in order; a process that was stopped goes on first."""
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            for process in [psutil.Process(self.pid), *self.children()]:
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()
            self.kill(signal.SIGTERM)

    def calm(self) -> None:
        """Wait until nothing is on its way; start again what a test that failed has left dead."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        self.until(lambda: not any(
            self.http.get("/api/jobs", params={"state": state}).json()["jobs"] for state in ("queued", "running")))

    def undisturbed(self, **fields: Any) -> list[str]:
        """Hashes of the pictures of `BODY` with other fields, when nothing happens."""
        key = repr(sorted(fields.items()))
        if key not in self._known:
            self._known[key] = self.hashes(self.ended(self.submit(**fields)))
        return self._known[key]

    def submit(self, **fields: Any) -> str:
        """The id of an accepted job: `BODY` with other fields."""
        return harness.submit(self.http, **{**BODY, **fields})

    def job(self, id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/jobs/{id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, true: Callable[[], Any], seconds: float = 60) -> Any:
        """Repeat a question until its answer is true; a gateway that is away for a moment has none."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := true():
                    return found
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"it did not happen in time\n{self.log[-3000:]}")

    def ended(self, id: str, seconds: float = 90) -> dict[str, Any]:
        """The record of a job once it has ended."""
        self.until(lambda: self.job(id)["state"] in FINAL, seconds)
        return self.job(id)

    def first_picture(self, id: str) -> list[dict[str, Any]]:
        """Waits until the job has pictures, but not all."""
        for event in harness.events(self.http, id):
            assert event["type"] not in ("finished", "failed"), event
            if event["type"] == "artifact":
                break
        job = self.job(id)
        assert len(job["artifacts"]) < job["spec"]["count"], "the job was too quick for the test"
        made: list[dict[str, Any]] = job["artifacts"]
        return made

    def runner(self, model: str) -> int:
        """Process of the runner that is ready and holds `model`."""
        pid: int = self.until(lambda: self.runner_pid(model))
        return pid

    def strike(self, model: str, sign: signal.Signals = signal.SIGKILL) -> int:
        pid = self.runner(model)
        os.kill(pid, sign)
        return pid

    def file(self, id: str, index: int) -> Path:
        return self.data_dir / "artifacts" / id / f"{index:03d}.png"

    def stamps(self, id: str) -> dict[int, tuple[int, int]]:
        """Inode and time of change of every picture that is recorded."""
        found = {}
        for item in self.job(id)["artifacts"]:
            status = self.file(id, item["index"]).stat()
            found[item["index"]] = status.st_ino, status.st_mtime_ns
        return found

    def hashes(self, job: dict[str, Any]) -> list[str]:
        """A hash of the pixels of each of the job's pictures. It succeeded, and has each picture once."""
        assert job["state"] == "succeeded", job["error"]
        assert [item["index"] for item in job["artifacts"]] == list(range(job["spec"]["count"]))
        found = []
        for item in job["artifacts"]:
            assert self.http.get(item["url"]).status_code == 200
            with Image.open(self.file(job["id"], item["index"])) as picture:
                found.append(hashlib.sha256(picture.tobytes()).hexdigest())
        return found

    def chat(self, **fields: Any) -> str:
        """One short answer; raises httpx.HTTPStatusError."""
        body = {"model": "starter-text", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4,
                "temperature": 0, **fields}
        answer = self.http.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def follow(self, id: str) -> Follower:
        return Follower(self.url, id)


class Follower(threading.Thread):
    """Follows a job over one connection; `events` are told in order, to the end of the stream."""

    def __init__(self, url: str, id: str) -> None:
        super().__init__(daemon=True)
        self._url, self._id = url, id
        self.events: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120, trust_env=False) as client:
            for event in harness.events(client, self._id):
                self.events.append(event)

    def kinds(self) -> list[str]:
        """Waits for the end of the stream; the types of its events."""
        self.join(120)
        assert not self.is_alive(), "the stream of events did not end"
        return [event["type"] for event in self.events]

    def told(self) -> list[int]:
        """Indices of the pictures that were told, in order."""
        self.kinds()
        return [event["index"] for event in self.events if event["type"] == "artifact"]


class Talk(threading.Thread):
    """Asks one short question after the other until told to stop; keeps the answers and the refusals."""

    def __init__(self, studio: Studio) -> None:
        super().__init__(daemon=True)
        self._studio, self._enough = studio, threading.Event()
        self.answers: list[str] = []
        self.refusals: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._enough.is_set():
            try:
                self.answers.append(self._studio.chat())
            except httpx.HTTPStatusError as error:
                self.refusals.append(error.response.text)
            self._enough.wait(0.2)

    def enough(self) -> None:
        self._enough.set()
        self.join(60)
        assert not self.is_alive(), "a question has no answer"


def streamed(studio: Studio, taken: Callable[[int], None], tokens: int = 200) -> list[dict[str, Any]]:
    """All events of a streamed answer; `taken(n)` is called after the n-th."""
    body = {"model": "starter-text", "messages": [{"role": "user", "content": "Count to one hundred."}], "stream": True,
            "temperature": 0, "max_tokens": tokens}
    found: list[dict[str, Any]] = []
    with httpx.Client(base_url=studio.url, timeout=60, trust_env=False) as client, client.stream(
            "POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
                taken(len(found))
    return found


@contextmanager
def opened(data_dir: Path, model_folder: Path, **settings: Any) -> Iterator[Studio]:
    """A studio with both small models. It is ended in order, and met no fault that it does not know."""
    one = Studio(data_dir, **{**SETTINGS, "model_dirs": [str(model_folder)], **settings})
    one.start()
    try:
        yield one
    finally:
        one.close()
    assert "Traceback" not in one.log, one.log[-4000:]
