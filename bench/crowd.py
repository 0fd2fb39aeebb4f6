"""Eight clients at once, against the same eight pictures made one after the other by diffusers; and a newcomer.

    python bench/crowd.py [--clients N] [--rounds N] [--threads N] [--quick]

The clients speak HTTP to a real server. The newcomer's wait is counted in steps: how many steps the others made, after
its job was accepted, before the first one that it took part in.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import torch

import harness
from picture import pipeline_of
from versus import SPEC

BAR = 1.5
BAR_STEPS = 1


class Follower(threading.Thread):
    """Follows a job; `steps` holds (time, step) of its progress."""

    def __init__(self, url: str, id: str) -> None:
        super().__init__(daemon=True)
        self._url, self._id = url, id
        self.steps: list[tuple[float, int]] = []
        self.start()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=600) as client:
            for event in harness.events(client, self._id):
                if event["type"] == "progress" and event["step"] > 0:
                    self.steps.append((time.perf_counter(), event["step"]))

    def at(self, moment: float) -> int:
        """Steps done at `moment`."""
        index = bisect_right(self.steps, (moment, 10**9))
        return self.steps[index - 1][1] if index else 0

    def began(self) -> float:
        """Waits for the first step that is told; when that was."""
        while not self.steps and self.is_alive():
            time.sleep(0.001)
        return self.steps[0][0]


def at_once(url: str, clients: int, steps: int) -> None:
    """Each client is a caller with a connection of its own."""

    def paint(number: int) -> None:
        with httpx.Client(base_url=url, timeout=600, headers={"X-Diptych-Caller": f"client-{number}"}) as client:
            job = harness.finish(client, harness.submit(client, **{**SPEC, "seed": number}, steps=steps))
            client.get(job["artifacts"][0]["url"]).raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(paint, range(clients)))


def newcomers(client: httpx.Client, clients: int, steps: int, times: int) -> list[int]:
    """Steps that each of several newcomers waits while `clients` pictures are on their way."""
    waits = []
    for number in range(times):
        crowd = [harness.submit(client, **{**SPEC, "seed": seed}, steps=steps) for seed in range(clients)]
        old = Follower(str(client.base_url), crowd[0])
        old.began()
        time.sleep(0.02 * number)  # at another moment of a step each time
        id = harness.submit(client, **SPEC, steps=2)
        accepted = time.perf_counter()
        new = Follower(str(client.base_url), id)
        first = new.began()
        new.join()
        # One of the steps between is the one it took part in.
        waits.append(max(0, old.at(first) - old.at(accepted) - 1))
        for job in crowd:
            client.post(f"/api/jobs/{job}/cancel")
        old.join()
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, steps, times = (1, 2, 1) if options.quick else (options.rounds, options.steps, 9)
    clients = 2 if options.quick else options.clients
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    with harness.gateway(threads=options.threads, warm_spare=False) as served:
        pipeline = pipeline_of(harness.STARTER, steps)

        def one_after_the_other() -> None:
            for _ in range(clients):
                pipeline()

        seconds = harness.alternating(rounds, {
            "diffusers, one after the other": one_after_the_other,
            "Diptych, all at once": lambda: at_once(served.url, clients, steps)})
        with httpx.Client(base_url=served.url, timeout=600) as client:
            waits = newcomers(client, clients, 40 if options.quick else 100, times)
    theirs, ours = seconds.values()
    ratio = harness.median_ratio(theirs, ours)
    rows: list[tuple[Any, ...]] = [
        (name, f"{harness.median(values):.2f}", f"{clients / harness.median(values):.2f}")
        for name, values in seconds.items()]
    rows += [("throughput, ratio", "", f"{ratio:.2f}"), ("a newcomer waits, steps", "", f"at most {max(waits)}")]
    harness.report("crowd", rows, ("way", "seconds", "pictures/s"), {
        "throughput_ratio": round(ratio, 3), "bar": BAR, "newcomer_steps": max(waits), "newcomers": waits,
        "bar_steps": BAR_STEPS, "met": ratio >= BAR and max(waits) <= BAR_STEPS, "clients": clients,
        "steps": steps, "rounds": rounds, "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
