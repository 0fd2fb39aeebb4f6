"""The load of `chaos.py`: callers that paint and chat, one that watches what is told, and the book they all keep."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import httpx

PROMPTS = ("a red apple on a blue background", "a green cat", "a yellow rocket on a black background")
SEEDS, STEPS, COUNTS = (3, 5), (6, 12), (1, 2, 3)
AT_ONCE = 3
"""Jobs of one caller that may be on their way."""
FINAL = ("succeeded", "failed", "cancelled")
Stamp = tuple[int, int]
"""Of a file: its inode and the time of its last change in nanoseconds."""


class Ledger:
    """What was accepted, what was told, and when a file was first seen. Written by several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.accepted: dict[str, dict[str, Any]] = {}
        self.stamps: dict[tuple[str, int], Stamp] = {}
        self.ended: dict[str, tuple[str, int]] = {}
        """State and attempts of each job when its end was first seen."""
        self.again: list[str] = []
        self.chats = 0
        self.broken = 0
        self.wrong_chats: list[str] = []

    def pictures(self) -> int:
        return len(self.stamps)

    def answers(self) -> int:
        return self.chats

    def on_their_way(self, ids: list[str]) -> int:
        with self.lock:
            return sum(id not in self.ended for id in ids)

    def see(self, job: dict[str, Any], folder: Path) -> None:
        """Note a record: its files as they are when they are first told, and its end."""
        with self.lock:
            for item in job["artifacts"]:
                key = (job["id"], item["index"])
                if key not in self.stamps:
                    self.stamps[key] = stamp(folder / job["id"] / f"{item['index']:03d}.png")
            state = (job["state"], job["attempts"])
            if job["state"] in FINAL and self.ended.setdefault(job["id"], state) != state:
                self.again.append(f"{job['id']} ended as {self.ended[job['id']]}, then as {state}")
            elif job["state"] not in FINAL and job["id"] in self.ended:
                self.again.append(f"{job['id']} is {job['state']} after its end")


def stamp(path: Path) -> Stamp:
    """(0, 0) for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


class Worker(threading.Thread):
    """A client that goes on when the server is away. `finish` has it end after what it is doing."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.stop, self.mine = url, stop, threading.Event()
        self.start()

    def finish(self) -> None:
        self.mine.set()
        self.join(120)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.mine.is_set() and not self.stop.is_set():
                try:
                    self.work(client)
                except httpx.HTTPError:
                    self.mine.wait(0.1)

    def work(self, client: httpx.Client) -> None:
        raise NotImplementedError


class Painter(Worker):
    """Keeps a few picture jobs on their way."""

    def __init__(self, url: str, caller: str, seed: int, ledger: Ledger, stop: threading.Event) -> None:
        self._caller, self._chance, self._ledger = caller, random.Random(seed), ledger
        self._ids: list[str] = []
        super().__init__(url, stop)

    def work(self, client: httpx.Client) -> None:
        self._ids = self._ids[-20:]
        if self._ledger.on_their_way(self._ids) >= AT_ONCE:
            self.mine.wait(0.05)
            return
        choose = self._chance.choice
        body = {"prompt": choose(PROMPTS), "seed": choose(SEEDS), "steps": choose(STEPS), "count": choose(COUNTS)}
        answer = client.post("/api/jobs", json=body, headers={"X-Diptych-Caller": self._caller})
        if answer.status_code == 201:
            id = answer.json()["id"]
            self._ids.append(id)
            with self._ledger.lock:
                self._ledger.accepted[id] = body


class Chatter(Worker):
    """Asks one question after the other. The answer is always the same, or the request fails: never half of one."""

    def __init__(self, url: str, ledger: Ledger, stop: threading.Event) -> None:
        self._ledger, self._known = ledger, ""
        super().__init__(url, stop)

    def work(self, client: httpx.Client) -> None:
        body = {"model": "starter-text", "messages": [{"role": "user", "content": "Name three colours."}],
                "temperature": 0, "max_tokens": 12}
        try:
            answer = client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
        except httpx.HTTPError:
            self._ledger.broken += 1
            raise
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"]
        self._known = self._known or text
        if not text or choice["finish_reason"] not in ("stop", "length"):
            self._ledger.wrong_chats.append(str(choice)[:200])
        self._ledger.chats += 1


class Watcher(Worker):
    """Looks at the newest jobs all the while."""

    def __init__(self, url: str, folder: Path, ledger: Ledger, stop: threading.Event) -> None:
        self._folder, self._ledger = folder, ledger
        super().__init__(url, stop)

    def work(self, client: httpx.Client) -> None:
        answer = client.get("/api/jobs", params={"limit": 100})
        if answer.status_code == 200:
            for job in answer.json()["jobs"]:
                self._ledger.see(job, self._folder)
        self.mine.wait(0.05)
