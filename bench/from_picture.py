"""A picture from a picture: Diptych's engine against diffusers' pipelines for img2img and inpainting.

    python bench/from_picture.py [--rounds N] [--threads N] [--quick]

The same folder, picture, mask, sampler, steps, strength and seed; both write their picture as PNG. Diffusers' pipeline
for inpainting takes latents of 4 channels only, and the starter's have 24: it is compared on a model of the starter's
shape with 4 and random weights. What the mask leaves alone is the picture itself with us, so there only the part that
both painted is compared.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, stored
from versus import SPEC, Comparison, loaded, painting, parsed

STRENGTH = 0.75
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


def main() -> None:
    options = parsed(__doc__)
    comparison, steps = Comparison(options), options.steps
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as inputs:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        first = painter.paint(ImageSpec.model_validate({**SPEC, "seed": 3, "steps": steps})).convert("RGB")
        id, files = stored(first, Path(inputs))
        given = {**SPEC, "steps": steps, "init_image": id, "strength": STRENGTH}
        theirs = painting(loaded("StableDiffusionImg2ImgPipeline", harness.STARTER), steps, image=first,
                          strength=STRENGTH)
        comparison.add("img2img", theirs, partial(painter.paint, ImageSpec.model_validate(given), files))
        folder = with_four_channels(Path(out) / "model")
        mask = Image.new("L", first.size)
        mask.paste(255, (0, 0, first.width // 2, first.height))
        theirs = painting(loaded("StableDiffusionInpaintPipeline", folder), steps, image=first, mask_image=mask,
                          strength=STRENGTH, width=first.width, height=first.height)
        other = Painter(folder, options.threads, Path(out) / "other")
        spec = ImageSpec.model_validate({**given, "mask": LEFT})
        comparison.add("inpaint", theirs, partial(other.paint, spec, files), width=0.5)
    comparison.report("from_picture")


if __name__ == "__main__":
    main()
