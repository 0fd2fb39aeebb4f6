"""Checkpoints of the real size, with random weights in float16: time to load, memory, and a picture of a few steps.

    python bench/full_size.py [sd1] [sd2] [sdxl] [--steps N] [--side PIXELS]

Each file is written, served by a real gateway from a folder of its own, and removed before the next one. XL needs 15 GB
of memory (the CPU computes in float32) and 7 GB of disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

import harness

sys.path.insert(0, str(harness.ROOT / "tools" / "families"))
import ldm_layout

GB = 1e9
LOAD_SECONDS = 900


def memory(pid: int) -> dict[str, float]:
    """GB of a process: its own (`anon`), mapped files in memory (`file`), and the most that both were together."""
    names = {"RssAnon": "anon", "RssFile": "file", "VmHWM": "peak"}
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
    return {names[key]: round(int(value.split()[0]) * 1024 / GB, 2) for key, _, value in lines if key in names}


def measure(kind: str, steps: int, side: int, folder: Path) -> dict[str, Any]:
    file = folder / f"{kind}-random.safetensors"
    writing = time.perf_counter()
    # A model's own size is what memory is planned for.
    values = ldm_layout.write(file, ldm_layout.layout(kind), {"modelspec.resolution": f"{side}x{side}"})
    writing = time.perf_counter() - writing
    with (harness.gateway(model_dirs=[str(folder)], warm_spare=False) as served,
          httpx.Client(base_url=served.url, timeout=LOAD_SECONDS) as client):
        began = time.perf_counter()
        answer = client.post("/api/models/load", json={"model": file.stem})
        load = time.perf_counter() - began
        if answer.status_code != 200:
            raise RuntimeError(f"{kind} was not loaded: {answer.text}")
        pid = served.runner_pid(file.stem)
        assert pid is not None
        loaded = memory(pid)
        began = time.perf_counter()
        job = harness.finish(client, harness.submit(
            client, model=file.stem, prompt="a red apple", steps=steps, width=side, height=side))
        painting = time.perf_counter() - began
        return {"values": values, "file_gb": round(file.stat().st_size / GB, 2), "write_seconds": round(writing, 1),
                "load_seconds": round(load, 1), "loaded": loaded, "painted": memory(pid),
                "job_seconds": round(painting, 1), "metrics": job["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["sd1", "sd2"], metavar="KIND")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    found = {}
    for kind in options.kinds:
        with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
            found[kind] = measure(kind, options.steps, options.side, Path(folder))
    rows = [(kind, f"{one['file_gb']:.2f}", f"{one['load_seconds']:.1f}", f"{one['loaded']['anon']:.2f}",
             f"{one['painted']['peak']:.2f}", f"{one['job_seconds']:.1f}") for kind, one in found.items()]
    harness.report("full_size", rows, ("kind", "file GB", "load s", "own GB", "peak GB (files too)", "job s"), {
        "kinds": found, "steps": options.steps, "side": options.side})


if __name__ == "__main__":
    main()
