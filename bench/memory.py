"""Ten thousand requests in a row: by how much the gateway's memory, and its runners', has grown.

    python bench/memory.py [--requests N] [--quick]

A mixture of lists of models, short chats, refused requests, jobs with pictures, and questions about jobs. A warm-up of
a tenth of them comes first. Memory is the resident set; its height is the median of ten looks, so that one look in the
middle of a request decides nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import httpx
import psutil

import harness

BAR = 0.02
CHAT = {"model": "starter-text", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2}
JOB = {"prompt": "a red apple", "steps": 1, "count": 1}


class Mixture:
    """Requests in turns; each has a status that it must be answered with."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._ids = client, [""]
        self._waiting: list[str] = []
        self.requests = 0
        often: list[Callable[[], None]] = [self._models, self._refused, self._models, self._unknown]
        self._turns = [*(4 * often), self._job, self._chat, self._look, self._list]

    def run(self, requests: int) -> float:
        """So many requests; the seconds they took."""
        began = time.perf_counter()
        for number in range(requests):
            self._turns[number % len(self._turns)]()
        for id in self._waiting:
            harness.finish(self._client, id)
        self._waiting.clear()
        return time.perf_counter() - began

    def _expect(self, status: int, answer: httpx.Response) -> httpx.Response:
        self.requests += 1
        if answer.status_code != status:
            raise RuntimeError(f"{answer.request.url} answered {answer.status_code}, not {status}: {answer.text[:300]}")
        return answer

    def _models(self) -> None:
        self._expect(200, self._client.get("/v1/models"))

    def _refused(self) -> None:
        self._expect(400, self._client.post("/v1/chat/completions", json={**CHAT, "temperature": 100 + self.requests}))

    def _unknown(self) -> None:
        self._expect(404, self._client.get(f"/api/jobs/{self.requests:032x}"))

    def _chat(self) -> None:
        self._expect(200, self._client.post("/v1/chat/completions", json={**CHAT, "seed": self.requests}))

    def _job(self) -> None:
        id = self._expect(201, self._client.post("/api/jobs", json={**JOB, "seed": self.requests})).json()["id"]
        self._ids.append(id)
        self._waiting.append(id)

    def _look(self) -> None:
        self._expect(200, self._client.get(f"/api/jobs/{self._ids[-1]}"))

    def _list(self) -> None:
        self._expect(200, self._client.get("/api/jobs", params={"limit": 20}))


def heights(pids: dict[str, int]) -> dict[str, float]:
    """Resident MiB of each process, the median of ten looks within two seconds."""
    looks: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(10):
        for name, pid in pids.items():
            looks[name].append(psutil.Process(pid).memory_info().rss / 2**20)
        time.sleep(0.2)
    return {name: statistics.median(values) for name, values in looks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=5, help="looks on the way")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    requests = 100 if options.quick else options.requests
    parts = 2 if options.quick else options.parts
    with harness.gateway(threads=options.threads, warm_spare=False, text_context=256) as served, \
            httpx.Client(base_url=served.url, timeout=600) as client:
        mixture = Mixture(client)
        mixture.run(max(20, requests // 10))
        pids = {"gateway": served.pid, **{one["model"]: one["pid"] for one in served.runners()}}
        looks, seconds = [heights(pids)], 0.0
        for _ in range(parts):
            seconds += mixture.run(requests // parts)
            looks.append(heights(pids))
    grown = {name: looks[-1][name] / looks[0][name] - 1 for name in pids}
    rows: Sequence[tuple[object, ...]] = [
        (name, *(f"{look[name]:.1f}" for look in looks), f"{100 * grown[name]:+.2f} %") for name in pids]
    head = ("MiB", *(f"{number * requests // parts}" for number in range(parts + 1)), "grown")
    harness.report("memory", rows, head, {
        "gateway_growth": round(grown["gateway"], 5), "bar": BAR, "met": grown["gateway"] <= BAR,
        "runners_growth": {name: round(value, 5) for name, value in grown.items() if name != "gateway"},
        "requests": requests, "requests_per_second": round(requests / seconds, 1), "quick": options.quick})


if __name__ == "__main__":
    main()
