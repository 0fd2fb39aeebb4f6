"""What the batcher needs from a model family. A family is one file of this package with a function `load_model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from diptych.engines.image.prompting import Texts


@dataclass(frozen=True)
class Contexts:
    """Text embeddings of one picture in one step, of equal length: `positive` (conditions, tokens, features), which
    count by `weights`, and `negative` (1, tokens, features). Stable Diffusion XL has each text once more as a whole:
    `pooled` (conditions, width) and `negative_pooled` (1, width)."""

    positive: torch.Tensor
    negative: torch.Tensor
    weights: tuple[float, ...] = (1.0,)
    pooled: torch.Tensor | None = None
    negative_pooled: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.positive.shape[1]


class ImageModel(Protocol):
    """A loaded latent diffusion model. All calls come from one thread."""

    device: torch.device
    dtype: torch.dtype
    latent_channels: int
    scale_factor: int
    """Pixels per latent, along one side."""
    multiple: int
    """Width and height in pixels must be multiples of it."""
    size: int
    """The model's own picture size in pixels."""
    scheduler_config: Mapping[str, Any]
    distilled_guidance: bool
    """The guidance scale is an input of the UNet (LCM): one row per picture, whatever the scale."""

    text_layers: int
    """Layers of the text encoder: the largest `clip_skip`."""

    def encode(self, texts: Texts) -> Contexts:
        """Text embeddings; long texts are encoded in chunks."""
        ...

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, contexts: torch.Tensor, guidance: torch.Tensor
    ) -> torch.Tensor:
        """One UNet pass: latents (rows, C, h, w), timesteps (rows,), contexts (rows, tokens, features) and guidance
        (rows,), which only a model of distilled guidance reads, to the predicted noise (or v, or sample)."""
        ...

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (1, C, h, w) to a picture, uint8 (height, width, 3)."""
        ...


class LoadModel(Protocol):
    """`load_model` of a family's file."""

    def __call__(self, path: str, device: torch.device, dtype: torch.dtype) -> ImageModel: ...
