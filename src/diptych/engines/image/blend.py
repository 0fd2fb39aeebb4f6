"""Holding latents to those of the picture they are made from: where the mask says so, and as much as each step may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from diptych.engines.image.samplers import Sampler


@dataclass(frozen=True, eq=False)
class Blend:
    """`origin` and `noise` (1, C, h, w); `mask` (1, 1, h, w) is 1 where latents are free, None: everywhere. `freedom`:
    how free each step is, evenly spread over the steps; empty: as the mask says."""

    origin: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None
    freedom: tuple[float, ...] = ()

    def apply(self, latents: torch.Tensor, sampler: Sampler) -> torch.Tensor:
        """Latents (1, C, h, w) after a step, mixed with those of the picture at the same level of noise."""
        free = self._free(sampler)
        if self.mask is None and free == 1.0:
            return latents
        held = sampler.noised(self.origin, self.noise).to(latents.dtype)
        weight = free if self.mask is None else self.mask * free
        return (1 - weight) * held + weight * latents

    def _free(self, sampler: Sampler) -> float:
        if not self.freedom:
            return 1.0
        made, steps = sampler.step - sampler.skip, sampler.steps - sampler.skip
        return interpolated(self.freedom, (made - 1) / max(1, steps - 1))


def interpolated(values: Sequence[float], place: float) -> float:
    """`values` at `place` (0 to 1), linear between them."""
    return float(np.interp(min(max(place, 0.0), 1.0), np.linspace(0, 1, len(values)), values))


def latent_mask(mask: NDArray[np.float32], factor: int, like: torch.Tensor) -> torch.Tensor:
    """(1, 1, h, w) of a mask (height, width) of pixels: 1 where at least half of a latent's pixels is free."""
    pixels = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
    return (functional.avg_pool2d(pixels, factor) >= 0.5).to(like.device, like.dtype)


def slerp(strength: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spherical interpolation between two tensors of noise, which keeps their length (Shoemake 1985)."""
    one, two = first / first.norm(), second / second.norm()
    angle = torch.arccos((one * two).sum().clamp(-1, 1))
    if float(angle.sin()) < 1e-6:
        return (1 - strength) * first + strength * second
    return ((1 - strength) * angle).sin() / angle.sin() * first + (strength * angle).sin() / angle.sin() * second
