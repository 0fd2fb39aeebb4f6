"""A picture under control: Diptych's engine against diffusers' StableDiffusionControlNetPipeline.

    python bench/control.py [--rounds N] [--threads N] [--quick]

The starter with its ControlNet, the same map, sampler, steps and seed; once in mode balanced, once in mode control
(`guess_mode`). Both write their picture as PNG.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, stored
from versus import SPEC, Comparison, loaded, painting, parsed

CANNY = harness.ROOT / "starter-canny"


def outline(size: int = 64) -> Image.Image:
    """A map as Canny would find it of a disc in the upper left."""
    picture = Image.new("RGB", (size, size))
    ImageDraw.Draw(picture).ellipse((6, 8, 40, 44), outline=(255, 255, 255))
    return picture


def main() -> None:
    options = parsed(__doc__)
    comparison = Comparison(options)
    network = ControlNetModel.from_pretrained(CANNY, local_files_only=True, torch_dtype=torch.float32)
    pipe = loaded("StableDiffusionControlNetPipeline", harness.STARTER, controlnet=network)
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as inputs:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        id, files = stored(outline(), Path(inputs))
        files["controlnet:starter-canny"] = str(CANNY)
        for mode in ("balanced", "control"):
            unit = {"model": "starter-canny", "image": id, "control_mode": mode}
            spec = ImageSpec.model_validate({**SPEC, "steps": options.steps, "controls": [unit]})
            theirs = painting(pipe, options.steps, image=outline(), guess_mode=mode == "control")
            comparison.add(mode, theirs, partial(painter.paint, spec, files))
    comparison.report("control")


if __name__ == "__main__":
    main()
