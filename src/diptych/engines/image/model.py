"""What the batcher needs from a model family. A family is one file of this package with a function `load_model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from diptych.core.size_hints import SizeHints
from diptych.engines.image.adapters.extras import ModelAdapters
from diptych.engines.image.control.image_prompt import ImagePrompt
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


@dataclass(frozen=True)
class Pass:
    """The rows of one UNet pass. Tensors have `rows` as their first dimension.

    latents: (rows, C, h, w), scaled as the sampler wants the model to see them.
    timesteps, guidance: (rows,); only a model of distilled guidance reads `guidance`.
    contexts: (rows, tokens, features).
    extra: (rows, E, h, w), further channels of models for inpainting, after those of the latents.
    pooled: (rows, width) and `time_ids`: (rows, numbers), of Stable Diffusion XL.
    down, mid: what ControlNets add to the UNet's skips and its middle; `intrablock`: what T2I-Adapters add.
    image_prompts: what IP-Adapters show the UNet, for all rows.
    adapters: for each row the keys of its adapters with their weights; empty where no row has any.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    contexts: torch.Tensor
    guidance: torch.Tensor
    extra: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    down: tuple[torch.Tensor, ...] = ()
    mid: torch.Tensor | None = None
    intrablock: tuple[torch.Tensor, ...] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()
    adapters: tuple[tuple[tuple[str, float], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, start: int, stop: int) -> Pass:
        """Only these rows."""
        part = {one.name: _cut(getattr(self, one.name), start, stop) for one in fields(self)}
        return Pass(**part)


def _cut(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value[start:stop]
    if value and isinstance(value, tuple) and isinstance(value[0], (torch.Tensor, ImagePrompt)):
        return tuple(one[start:stop] for one in value)
    return value[start:stop] if value else value


@dataclass(frozen=True)
class Moments:
    """A picture as the VAE's encoder sees it, in units of latents: `mean` (1, C, h, w), and `std` of the same shape, or
    None where the encoder knows of no spread."""

    mean: torch.Tensor
    std: torch.Tensor | None

    def sample(self, draw: Callable[[torch.Size], torch.Tensor]) -> torch.Tensor:
        """Latents (1, C, h, w); `draw` gives standard normal numbers of a shape."""
        if self.std is None:
            return self.mean
        return self.mean + self.std * draw(self.mean.shape)


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

    extra_channels: int
    """Channels that the UNet takes beside the latents: 1 + C of models for inpainting, else 0."""
    modules: tuple[torch.nn.Module, ...]
    """Those with convolutions over latents and pixels: UNet and VAE."""
    adapters: ModelAdapters
    """Where it takes adapters and embeddings."""
    text_layers: int
    """Layers of the text encoder: the largest `clip_skip`."""

    def encode(self, texts: Texts) -> Contexts:
        """Text embeddings; long texts are encoded in chunks."""
        ...

    def time_ids(self, contexts: Contexts, hints: SizeHints, width: int, height: int) -> torch.Tensor | None:
        """Numbers about sizes that the UNet is told of a picture of `width` × `height` pixels, (1 + conditions,
        numbers), the negative condition's first; None of models that know none."""
        ...

    def predict(self, rows: Pass) -> torch.Tensor:
        """One UNet pass to the predicted noise (or v, or sample), (rows, C, h, w)."""
        ...

    def encode_picture(self, pixels: np.ndarray, hidden: np.ndarray | None = None) -> Moments:
        """A picture, uint8 (height, width, 3), sides in multiples of `multiple`, as the VAE sees it; neutral gray where
        `hidden`, bool (height, width), says so."""
        ...

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (1, C, h, w) to a picture, uint8 (height, width, 3)."""
        ...


class LoadModel(Protocol):
    """`load_model` of a family's file."""

    def __call__(self, path: str, device: torch.device, dtype: torch.dtype) -> ImageModel: ...
