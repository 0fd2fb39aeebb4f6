"""A picture under control: Diptych's engine against diffusers' StableDiffusionControlNetPipeline.

    python bench/control.py [--rounds N] [--threads N] [--quick]

The starter with its ControlNet, the same map, sampler, steps and seed; once in mode balanced, once in mode control
(`guess_mode`). Both write their picture as PNG.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import harness
from diptych.core.control import Control
from diptych.core.specs import ImageSpec
from painter import Painter, most_apart, stored
from picture import SPEC

BAR = 1.05
CANNY = harness.ROOT / "starter-canny"


def outline(size: int = 64) -> Image.Image:
    """A map as Canny would find it of a disc in the upper left."""
    picture = Image.new("RGB", (size, size))
    ImageDraw.Draw(picture).ellipse((6, 8, 40, 44), outline=(255, 255, 255))
    return picture


def pipeline(folder: Path, steps: int, guess: bool) -> Callable[[], Image.Image]:
    """A call of the pipeline with Euler that ends with the PNG's bytes."""
    from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline

    network = ControlNetModel.from_pretrained(CANNY, local_files_only=True, torch_dtype=torch.float32)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        folder, controlnet=network, local_files_only=True, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def paint() -> Image.Image:
        made: Image.Image = pipe(
            SPEC["prompt"], image=outline(), num_inference_steps=steps, guidance_scale=SPEC["guidance"],
            guess_mode=guess, generator=torch.Generator("cpu").manual_seed(int(SPEC["seed"]))).images[0]
        made.save(io.BytesIO(), format="PNG")
        return made

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, steps = (1, 4) if options.quick else (options.rounds, options.steps)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as inputs:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        id, files = stored(outline(), Path(inputs))
        files["controlnet:starter-canny"] = str(CANNY)
        rows, figures = [], {}
        for mode in ("balanced", "control"):
            unit = Control(model="starter-canny", image=id, control_mode=mode)
            spec = ImageSpec(**SPEC, steps=steps, controls=(unit,))  # type: ignore[arg-type]
            works: dict[str, Callable[[], Any]] = {
                "diffusers": pipeline(harness.STARTER, steps, guess=mode == "control"),
                "engine": lambda spec=spec: painter.paint(spec, files)}
            apart = most_apart(works["engine"](), works["diffusers"]())
            seconds = harness.alternating(rounds, works)
            ratio = harness.median_ratio(seconds["engine"], seconds["diffusers"])
            figures[mode] = {"ratio": round(ratio, 4), "most_apart": apart}
            rows += [(mode, way, f"{1000 * harness.median(values):.0f}", f"{ratio:.3f}" if way == "engine" else "",
                      apart if way == "engine" else "") for way, values in seconds.items()]
    harness.report("control", rows, ("mode", "way", "ms", "ratio", "apart of 255"), {
        **figures, "bar": BAR, "met": max(one["ratio"] for one in figures.values()) <= BAR, "steps": steps,
        "rounds": rounds, "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
