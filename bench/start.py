"""How soon the gateway answers, and how long another image model takes beyond reading its file.

    python bench/start.py [--rounds N] [--quick]

Ready: from the start of the process to the first answer of `/health`, on a data folder that was used before. Switch:
two copies of the starter, and a budget of memory that holds one of them; a job for the one that is not loaded, from
its submission to its first step, with a warm spare that has finished its imports; less the time that reading its file
takes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from safetensors.torch import load_file, save_file

import harness
from diptych.schedule.estimate import IMAGE_RUNTIME

BAR_READY, BAR_SWITCH = 1.5, 1.5


def first_step(client: httpx.Client, model: str) -> float:
    """Seconds from the submission of a job to its first step; waits for its end."""
    began = time.perf_counter()
    id = harness.submit(client, model=model, prompt="a red apple", steps=4)
    seconds = None
    for event in harness.events(client, id):
        if event["type"] == "progress" and event["step"] > 0 and seconds is None:
            seconds = time.perf_counter() - began
    harness.finish(client, id)
    if seconds is None:
        raise RuntimeError("the job told no step")
    return seconds


def read_all(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            while opened.read(1 << 20):
                pass


def copies(folder: Path) -> list[Path]:
    """Two image models: the starter's files, with another note in the header of the UNet's, so that they differ."""
    made = []
    for name in ("first", "second"):
        shutil.copytree(harness.STARTER, folder / name, ignore=shutil.ignore_patterns("*.png", "*.txt"))
        weights = next((folder / name / "unet").glob("*.safetensors"))
        save_file(load_file(weights), weights, metadata={"format": "pt", "copy": name})
        made.append(folder / name)
    return made


def make_scarce(served: harness.Gateway, client: httpx.Client, model: str) -> None:
    """Measure what a model takes, and start the gateway anew with memory for it and a warm spare, but not for two."""
    first_step(client, model)
    client.post("/api/models/load", json={"model": model}).raise_for_status()
    leased = next(one["bytes_leased"] for one in served.runners() if one["model"] == model)
    served.kill(signal.SIGTERM)
    served.settings |= {"memory_bytes": leased + int(1.1 * IMAGE_RUNTIME), "warm_spare": True}
    served.start()


def switches(rounds: int, threads: int) -> tuple[list[float], float]:
    """Seconds of each switch, and those of reading the file."""
    with tempfile.TemporaryDirectory() as place:
        folders = copies(Path(place))
        with harness.gateway(threads=threads, model_dirs=[place], warm_spare=False) as served, \
                httpx.Client(base_url=served.url, timeout=600) as client:
            names = [model["id"] for model in client.get("/api/models").json()["models"]
                     if Path(model["path"]) in folders]
            if len(names) != 2:
                raise RuntimeError(f"the two copies are not two models: {names}")
            make_scarce(served, client, names[0])
            found = []
            served.wait_for_spare()
            first_step(client, names[0])
            for number in range(rounds):
                served.wait_for_spare()
                found.append(first_step(client, names[(number + 1) % 2]))
                if [one["model"] for one in served.runners()] != [names[(number + 1) % 2]]:
                    raise RuntimeError(f"both models are loaded: that was no switch: {served.runners()}")
        reading = statistics.median(harness.timed(lambda: read_all(folders[0])) for _ in range(5))
    return found, reading


def starts(rounds: int, threads: int, warm_spare: bool) -> list[float]:
    with harness.gateway(threads=threads, warm_spare=warm_spare) as served:
        found = []
        for _ in range(rounds):
            served.kill()
            found.append(served.start())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    ready = starts(rounds, options.threads, warm_spare=not options.quick)
    switch, reading = switches(rounds, options.threads)
    beyond = [seconds - reading for seconds in switch]
    rows = [(name, f"{statistics.median(values):.2f}", f"{max(values):.2f}") for name, values in (
        ("ready after", ready), ("switch of the image model", switch), ("… beyond reading its file", beyond))]
    harness.report("start", rows, ("what", "seconds (median)", "most"), {
        "ready_seconds": round(statistics.median(ready), 3), "bar_ready": BAR_READY,
        "switch_beyond_reading_seconds": round(statistics.median(beyond), 3), "reading_seconds": round(reading, 4),
        "bar_switch": BAR_SWITCH, "rounds": rounds, "quick": options.quick,
        "met": statistics.median(ready) <= BAR_READY and statistics.median(beyond) <= BAR_SWITCH})


if __name__ == "__main__":
    main()
