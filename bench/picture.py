"""One picture: Diptych against diffusers' StableDiffusionPipeline on the same folder, sampler, steps and seed.

    python bench/picture.py [--rounds N] [--threads N] [--quick]

Twice: the engine in this process, and the whole way through HTTP (submit, wait for the end, fetch the PNG) with the
pipeline in this process beside an idle server. The pipeline writes its picture as PNG, too.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, most_apart

SPEC: dict[str, Any] = {"prompt": "a red apple on a blue background", "guidance": 5.0, "seed": 7}
BAR = 1.0


def pipeline_of(folder: Path, steps: int) -> Callable[[], Image.Image]:
    """One call of the pipeline on `folder` with Euler, as its documentation shows it; ends with the PNG's bytes."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        folder, local_files_only=True, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def paint() -> Image.Image:
        picture: Image.Image = pipe(
            SPEC["prompt"], num_inference_steps=steps, guidance_scale=SPEC["guidance"],
            generator=torch.Generator("cpu").manual_seed(SPEC["seed"])).images[0]
        picture.save(io.BytesIO(), format="PNG")
        return picture

    return paint


def over_http(client: httpx.Client, steps: int) -> Image.Image:
    job = harness.finish(client, harness.submit(client, **SPEC, steps=steps))
    return Image.open(io.BytesIO(client.get(job["artifacts"][0]["url"]).content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, steps = (2, 2) if options.quick else (options.rounds, options.steps)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as out, harness.gateway(threads=options.threads) as served:
        pipeline = pipeline_of(harness.STARTER, steps)
        painter = Painter(harness.STARTER, options.threads, Path(out))
        spec = ImageSpec(**SPEC, steps=steps)
        served.wait_for_spare()
        with httpx.Client(base_url=served.url, timeout=600) as client:
            works: dict[str, Callable[[], Any]] = {
                "diffusers": pipeline, "engine": lambda: painter.paint(spec), "http": lambda: over_http(client, steps)}
            apart = {name: most_apart(pipeline(), works[name]()) for name in ("engine", "http")}
            seconds = harness.alternating(rounds, works)
    ratios = {name: harness.median_ratio(seconds[name], seconds["diffusers"]) for name in works}
    rows = [(name, f"{1000 * harness.median(seconds[name]):.0f}", f"{ratios[name]:.3f}", apart.get(name, 0))
            for name in works]
    harness.report("picture", rows, ("way", "ms", "ratio", "apart of 255"), {
        "engine_ratio": round(ratios["engine"], 4), "http_ratio": round(ratios["http"], 4), "bar": BAR,
        "met": max(ratios.values()) <= BAR, "most_apart": max(apart.values()), "steps": steps, "rounds": rounds,
        "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
