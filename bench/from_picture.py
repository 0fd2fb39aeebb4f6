"""A picture from a picture: Diptych's engine against diffusers' pipelines for img2img and inpainting.

    python bench/from_picture.py [--rounds N] [--threads N] [--quick]

The same folder, picture, mask, sampler, steps, strength and seed; both write their picture as PNG. Diffusers' pipeline
for inpainting takes latents of 4 channels only, and the starter's have 24: it is compared on a model of the starter's
shape with 4 and random weights.
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
from PIL import Image

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, most_apart, stored
from picture import SPEC

BAR = 1.05
STRENGTH = 0.75
SEED = 7
LEFT = {"shapes": [{"kind": "rectangle", "x": 0, "y": 0, "width": 0.5, "height": 1}], "blur": 0.0}


def with_four_channels(folder: Path) -> Path:
    """The starter's parts, with a UNet and a VAE of random weights for latents of 4 channels."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(harness.STARTER, local_files_only=True, safety_checker=None)
    for name, sizes in (("unet", {"in_channels": 4, "out_channels": 4}), ("vae", {"latent_channels": 4})):
        part = getattr(pipe, name)
        setattr(pipe, name, type(part).from_config({**part.config, **sizes}))
    pipe.save_pretrained(folder)
    return folder


def pipeline(
    kind: str, folder: Path, steps: int, picture: Image.Image, **more: Any,
) -> Callable[[], Image.Image]:
    """A call of a pipeline with Euler, that ends with the PNG's bytes."""
    import diffusers

    pipe = getattr(diffusers, kind).from_pretrained(
        folder, local_files_only=True, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def paint() -> Image.Image:
        made: Image.Image = pipe(
            prompt=SPEC["prompt"], image=picture, num_inference_steps=steps, guidance_scale=SPEC["guidance"],
            strength=STRENGTH, generator=torch.Generator("cpu").manual_seed(SEED), **more).images[0]
        made.save(io.BytesIO(), format="PNG")
        return made

    return paint


def apart(ours: Image.Image, theirs: Image.Image, name: str) -> int:
    """In the part that both painted: what the mask leaves alone is the picture itself with us."""
    box = (0, 0, ours.width // (2 if name == "inpaint" else 1), ours.height)
    return most_apart(ours.crop(box), theirs.crop(box))


def compared(name: str, steps: int, threads: int, out: Path, inputs: Path) -> dict[str, Callable[[], Image.Image]]:
    """The same picture both ways."""
    first = Painter(harness.STARTER, threads, out).paint(
        ImageSpec.model_validate({**SPEC, "seed": 3, "steps": steps})).convert("RGB")
    id, files = stored(first, inputs)
    given = {**SPEC, "seed": SEED, "steps": steps, "init_image": id, "strength": STRENGTH}
    if name == "img2img":
        folder, kind, more = harness.STARTER, "StableDiffusionImg2ImgPipeline", {}
    else:
        folder, kind = with_four_channels(out / "model"), "StableDiffusionInpaintPipeline"
        given = {**given, "mask": LEFT}
        mask = Image.new("L", first.size)
        mask.paste(255, (0, 0, first.width // 2, first.height))
        more = {"mask_image": mask, "width": first.width, "height": first.height}
    painter, spec = Painter(folder, threads, out), ImageSpec.model_validate(given)
    return {"diffusers": pipeline(kind, folder, steps, first, **more), "engine": lambda: painter.paint(spec, files)}


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
    rows: list[tuple[Any, ...]] = []
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as inputs:
        for name in ("img2img", "inpaint"):
            works = compared(name, steps, options.threads, Path(out) / name, Path(inputs))
            difference = apart(works["engine"](), works["diffusers"](), name)
            seconds = harness.alternating(rounds, dict(works))
            ratio = harness.median_ratio(seconds["engine"], seconds["diffusers"])
            figures[name] = {"ratio": round(ratio, 4), "most_apart": difference}
            rows += [(name, way, f"{1000 * harness.median(values):.0f}", f"{ratio:.3f}" if way == "engine" else "",
                      difference if way == "engine" else "") for way, values in seconds.items()]
    harness.report("from_picture", rows, ("what", "way", "ms", "ratio", "apart of 255"), {
        **figures, "bar": BAR, "met": max(one["ratio"] for one in figures.values()) <= BAR, "steps": steps,
        "rounds": rounds, "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
