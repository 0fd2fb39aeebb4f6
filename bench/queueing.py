"""A queue of 100,000 jobs: how fast jobs are accepted and claimed, and what questions about the queue cost.

    python bench/queueing.py [--jobs 100000] [--callers 20] [--no-postgres] [--quick]

SQLite in a temporary folder, as in a data folder; PostgreSQL, where it is installed, on a Unix socket, with commits
that wait for the disk. Targets: 1,000 jobs accepted per second, 2 ms for a claim (choosing the job included).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diptych.core.jobs import JobState, Priority
from diptych.core.specs import ImageSpec
from diptych.schedule.fairness import Turns
from diptych.schedule.outlook import Outlook
from diptych.schedule.speeds import Speeds
from diptych.store.jobs import JobStore
from harness import report, timed

POSTGRES = Path(__file__).resolve().parents[1] / "tests" / "postgres_server.py"
THREADS = 16
CLAIMS = 500
QUESTIONS = 50
MODELS = ("starter", "other")


def postgres_module() -> Any:
    """The tests know how to start a server."""
    spec = importlib.util.spec_from_file_location("postgres_server", POSTGRES)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@contextlib.contextmanager
def databases(postgres: bool) -> Iterator[dict[str, str]]:
    """URLs of empty databases, by name."""
    with tempfile.TemporaryDirectory(prefix="diptych-queue-") as folder, contextlib.ExitStack() as stack:
        urls = {"SQLite": f"sqlite:///{folder}/diptych.sqlite3"}
        if postgres:
            servers = postgres_module()
            try:
                server = servers.PostgresServer(durable=True)
                server.start()
                stack.callback(server.stop)
                urls["PostgreSQL"] = server.url(server.create())
            except servers.NoPostgres as reason:
                print(f"without PostgreSQL: {reason}", file=sys.stderr)
        yield urls


def submit(store: JobStore, number: int, callers: int) -> str:
    spec = ImageSpec(prompt=f"picture {number}", model=MODELS[number % 2], width=512, height=512, seed=number)
    job = store.submit(spec, caller=f"caller-{number % callers}", priority=list(Priority)[number % 3],
                       timeout_seconds=3600, max_attempts=3, limit=10**9)
    return job.id


def fill(store: JobStore, jobs: int, callers: int) -> float:
    """Accept so many from as many threads as a gateway uses; jobs per second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda number: submit(store, number, callers), range(jobs)):
            pass
    return jobs / (time.perf_counter() - began)


def one_after_the_other(store: JobStore, callers: int, jobs: int = 1000) -> float:
    """Jobs per second from a single client that waits for each answer."""
    began = time.perf_counter()
    for number in range(jobs):
        submit(store, number, callers)
    return jobs / (time.perf_counter() - began)


def milliseconds(work: Callable[[], object], times: int) -> list[float]:
    return [1000 * timed(work) for _ in range(times)]


class Serving:
    """What a gateway does for every job: choose by turns, claim; later finish."""

    def __init__(self, store: JobStore) -> None:
        self.store, self.turns = store, Turns()
        self.claimed: list[str] = []

    def claim(self) -> None:
        head = self.turns.order(self.store.heads())[0]
        job = self.store.claim(head.id)
        assert job is not None
        self.turns.took(job.priority, job.caller)
        self.claimed.append(job.id)

    def finish(self) -> None:
        assert self.store.finish(self.claimed.pop(), JobState.SUCCEEDED, attempt=1)


def measure(url: str, jobs: int, callers: int) -> dict[str, float]:
    store = JobStore(url)
    store.migrate()
    try:
        result = {"submit_per_second": fill(store, jobs, callers),
                  "submit_alone_per_second": one_after_the_other(store, callers)}
        serving, speeds = Serving(store), Speeds()
        for model in MODELS:
            speeds.learn(model, "512x512", 16, 0.01)
        outlook = Outlook(store, serving.turns, speeds, 16, list)
        claims = milliseconds(serving.claim, CLAIMS)
        last = store.list(state=JobState.QUEUED, limit=1)[0].id
        questions: dict[str, Callable[[], object]] = {
            "place_of_the_last_ms": lambda: outlook.places([last]), "first_100_ms": lambda: outlook.queue(100),
            "count_ms": store.queue_lengths, "empty_ms": lambda: store.waiting([])}
        result |= {"claim_ms": statistics.median(claims), "claim_p99_ms": sorted(claims)[int(len(claims) * 0.99)],
                   "finish_ms": statistics.median(milliseconds(serving.finish, CLAIMS))}
        return result | {name: statistics.median(milliseconds(work, QUESTIONS)) for name, work in questions.items()}
    finally:
        store.close()


ROWS = (
    ("accepted per second, 16 threads", "submit_per_second", "≥ 1000"),
    ("accepted per second, one client", "submit_alone_per_second", ""),
    ("choose and claim, ms (median)", "claim_ms", "≤ 2"),
    ("choose and claim, ms (99 %)", "claim_p99_ms", ""),
    ("finish, ms", "finish_ms", ""),
    ("place and time of the last job, ms", "place_of_the_last_ms", ""),
    ("first 100 of the queue, ms", "first_100_ms", ""),
    ("lengths by class, ms", "count_ms", ""),
    ("a question that finds nothing, ms", "empty_ms", ""),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    jobs = 2000 if options.quick else options.jobs
    with databases(not options.no_postgres) as urls:
        found = {name: measure(url, jobs, options.callers) for name, url in urls.items()}
    rows = [(label, *(f"{result[key]:.4g}" for result in found.values()), target) for label, key, target in ROWS]
    report("queueing", rows, (f"{jobs} jobs, {options.callers} callers", *found, "target"),
           {"jobs": jobs, "callers": options.callers, "quick": options.quick,
            **{name.lower(): {key: round(value, 3) for key, value in result.items()}
               for name, result in found.items()}})


if __name__ == "__main__":
    main()
