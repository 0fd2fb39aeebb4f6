"""Random `kill -9` of runners and of the gateway, under load, and what came of it.

    python bench/chaos.py [--kills N] [--seconds S] [--callers N] [--seed N] [--quick]

Callers submit pictures and chat all the while. Every job that was accepted (201) has to end well, with each of its
pictures once and as an undisturbed run makes it. Exit status 1 when a job was lost, or a picture made twice or wrong.

- lost: an accepted job that is unknown, has not succeeded in the end, or lacks a picture or its file.
- doubled: an index with two artifacts, a picture whose file was written again after it had been told, a job that ran
  again after its end.
- altered: a picture that differs by more than 2 of 255 from the undisturbed one of the same request.
- recovery: from a kill to the next picture that is told (of the gateway or the image runner), or the next answer (of
  the text runner).

A picture that was written but not yet told when its runner died is made again, under the same name: nobody had it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import threading
import time
from typing import Any

import httpx

import harness
from chaos_load import Chatter, Ledger, Painter, Watcher
from chaos_verify import verdict

TARGETS = ("image runner", "image runner", "text runner", "gateway", "gateway and runners")
SETTLE_SECONDS = 300.0
MOST_WAIT = 60.0


class Killer:
    """Kills by chance, and measures how long it took until work went on."""

    def __init__(self, served: harness.Gateway, ledger: Ledger, chance: random.Random) -> None:
        self._served, self._ledger, self._chance = served, ledger, chance
        self.kills: list[tuple[str, float]] = []
        """Target, and seconds until work went on."""

    def strike(self) -> None:
        """One kill, and the wait until work goes on. A target that is not there just now is replaced by another."""
        target = self._chance.choice(TARGETS)
        pids = self._pids(target)
        if not pids:
            target, pids = "gateway", []
        progress = self._ledger.answers if target == "text runner" else self._ledger.pictures
        before, began = progress(), time.monotonic()
        if target.startswith("gateway"):
            self._served.kill(signal.SIGKILL)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if target.startswith("gateway"):
            self._served.start()
        while progress() == before and time.monotonic() - began < MOST_WAIT:
            time.sleep(0.01)
        self.kills.append((target, time.monotonic() - began))

    def _pids(self, target: str) -> list[int]:
        if target == "gateway":
            return []
        models = {"image runner": ("starter",), "text runner": ("starter-text",)}.get(
            target, ("starter", "starter-text"))
        try:
            return [one["pid"] for one in self._served.runners() if one["model"] in models and one["pid"]]
        except (httpx.HTTPError, KeyError):
            return []


def settle(served: harness.Gateway, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Wait until no job is on its way any more; all records, also of jobs whose acceptance nobody heard of."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with httpx.Client(base_url=served.url, timeout=60) as client:
        while time.monotonic() < deadline:
            waiting = [state for state in ("queued", "running")
                       if client.get("/api/jobs", params={"state": state, "limit": 1}).json()["jobs"]]
            if not waiting:
                break
            time.sleep(0.2)
        found: dict[str, dict[str, Any]] = {}
        before: str | None = None
        while True:
            page = client.get("/api/jobs", params={"limit": 1000, **({"before": before} if before else {})}).json()
            found |= {job["id"]: job for job in page["jobs"]}
            before = page["next"]
            if before is None:
                return found


def storm(served: harness.Gateway, options: argparse.Namespace) -> tuple[Ledger, Killer, dict[str, dict[str, Any]]]:
    """The load, the kills, and the records in the end."""
    chance, ledger, stop = random.Random(options.seed), Ledger(), threading.Event()
    workers = [Painter(served.url, f"caller-{number}", options.seed + number, ledger, stop)
               for number in range(options.callers)]
    workers.append(Chatter(served.url, ledger, stop))
    workers.append(Watcher(served.url, served.data_dir / "artifacts", ledger, stop))
    killer = Killer(served, ledger, chance)
    while not ledger.pictures() or not ledger.answers():
        time.sleep(0.05)
    began, pause = time.monotonic(), options.seconds / max(1, options.kills)
    for number in range(options.kills):
        time.sleep(max(0.0, began + pause * (number + chance.random()) - time.monotonic()))
        killer.strike()
    for worker in workers[:-1]:
        worker.finish()
    records = settle(served, ledger)
    stop.set()
    workers[-1].finish()
    return ledger, killer, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180.0, help="over which the kills are spread")
    parser.add_argument("--callers", type=int, default=3, help="who submit pictures; one more chats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="three kills in half a minute")
    options = parser.parse_args()
    if options.quick:
        options.kills, options.seconds, options.callers = 3, 6.0, 2
    with harness.gateway(threads=options.threads, job_max_attempts=100, text_context=512,
                         warm_spare=not options.quick) as served:
        ledger, killer, records = storm(served, options)
        result = verdict(served, ledger, records)
    spans: dict[str, list[float]] = {}
    for target, seconds in killer.kills:
        spans.setdefault(target, []).append(seconds)
    rows: list[tuple[object, ...]] = [
        (f"kills: {target}", len(values), f"{statistics.median(values):.1f}", f"{max(values):.1f}")
        for target, values in sorted(spans.items())]
    rows += [(name, result[name], "", "") for name in (
        "accepted", "pictures", "lost", "doubled", "altered", "chats", "chats_broken")]
    rows += [(f"  {line}", "", "", "") for line in result["faults"][:20]]
    recovery = [seconds for _, seconds in killer.kills]
    harness.report("chaos", rows, ("what", "count", "recovered after, s (median)", "most"), {
        **result, "kills": len(killer.kills), "recovery_seconds_median": round(statistics.median(recovery), 2),
        "recovery_seconds_most": round(max(recovery), 2), "seconds": options.seconds, "callers": options.callers,
        "seed": options.seed, "quick": options.quick})
    sys.exit(1 if result["lost"] or result["doubled"] or result["altered"] else 0)


if __name__ == "__main__":
    main()
