"""One picture: Diptych against diffusers' StableDiffusionPipeline on the same folder, sampler, steps and seed.

    python bench/picture.py [--rounds N] [--threads N] [--quick]

Twice: the engine in this process, and the whole way through HTTP (submit, wait for the end, fetch the PNG) with the
pipeline in this process beside an idle server. The pipeline writes its picture as PNG, too.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, most_apart
from versus import SPEC, Paint, loaded, painting, parsed

BAR = 1.0


def pipeline_of(folder: Path, steps: int) -> Paint:
    """One call of the pipeline on `folder`."""
    return painting(loaded("StableDiffusionPipeline", folder), steps)


def over_http(client: httpx.Client, steps: int) -> Image.Image:
    job = harness.finish(client, harness.submit(client, **SPEC, steps=steps))
    return Image.open(io.BytesIO(client.get(job["artifacts"][0]["url"]).content))


def main() -> None:
    options = parsed(__doc__, quick_rounds=2, quick_steps=2)
    rounds, steps = options.rounds, options.steps
    with tempfile.TemporaryDirectory() as out, harness.gateway(threads=options.threads) as served:
        pipeline = pipeline_of(harness.STARTER, steps)
        painter = Painter(harness.STARTER, options.threads, Path(out))
        spec = ImageSpec.model_validate({**SPEC, "steps": steps})
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
