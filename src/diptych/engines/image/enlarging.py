"""From the latents of one pass to those that the next, larger one begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from diptych.core.painting import hires_size
from diptych.core.specs import ImageSpec
from diptych.engines.image.finish.upscale import resized
from diptych.engines.image.model import ImageModel

LATENT: dict[str, dict[str, Any]] = {
    "latent": {"mode": "bilinear"}, "latent antialiased": {"mode": "bilinear", "antialias": True},
    "latent bicubic": {"mode": "bicubic"}, "latent bicubic antialiased": {"mode": "bicubic", "antialias": True},
    "latent nearest": {"mode": "nearest"},
}
Upscale = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""A picture, uint8 (height, width, 3), to one of this width and height."""


def enlarged(
    latents: torch.Tensor, spec: ImageSpec, model: ImageModel, upscale: Upscale | None = None,
) -> torch.Tensor:
    """Latents (1, C, h, w) for the second pass.

    Args:
        spec: of the first pass, with `hires` and its size in pixels.
        upscale: the upscaler of the library that `hires.upscaler` names, where it is none of the built-in ones.
    """
    assert spec.hires is not None and spec.width is not None and spec.height is not None
    width, height = hires_size(spec, spec.width, spec.height)
    name, side = spec.hires.upscaler, model.scale_factor
    if name in LATENT:
        return functional.interpolate(latents.float(), size=(height // side, width // side), **LATENT[name])
    picture, size = model.decode(latents), (width, height)
    larger = resized(picture, size, name) if upscale is None else upscale(picture, size)
    return model.encode_picture(larger).mean
