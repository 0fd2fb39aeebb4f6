"""A ControlNet or a T2I-Adapter, ready for use: what it makes of a map, and of the rows of a pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.core.errors import InvalidRequest
from diptych.engines.image.control.reading import read_controlnet, read_t2i_adapter
from diptych.engines.image.model import Pass


@dataclass(frozen=True)
class Residuals:
    """What a ControlNet adds to the UNet's skips, (rows, C, h, w) each, and to its middle."""

    down: tuple[torch.Tensor, ...]
    mid: torch.Tensor


class ControlNet:
    """`hint` is computed once for a picture; the network then begins where the hint joins the latents."""

    def __init__(self, path: str, unet: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Raises InvalidRequest when the file is damaged, or was made for a UNet of another shape."""
        network = read_controlnet(Path(path), unet, dtype)
        _check_fit(Path(path).name, network.config, unet.config)
        self._embedding = network.controlnet_cond_embedding.to(device)
        self._flipped = network.config.controlnet_conditioning_channel_order == "bgr"
        network.controlnet_cond_embedding = torch.nn.Identity()
        network.register_to_config(controlnet_conditioning_channel_order="rgb")
        self._network = network.to(device)
        self.pooled = bool(network.config.global_pool_conditions)
        """One value for the whole picture (shuffle): such networks are used for the prompt only."""
        self.width: int = network.config.cross_attention_dim
        self.channels: int = network.config.in_channels
        self.added = network.config.addition_embed_type == "text_time"
        self._device, self._dtype = device, dtype

    def hint(self, control: np.ndarray) -> torch.Tensor:
        """Features (1, C, h, w) of a control map, uint8 (height, width, 3)."""
        values = torch.from_numpy(control.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
        if self._flipped:
            values = values.flip(1)
        found: torch.Tensor = self._embedding(values.to(self._device, self._dtype))
        return found

    def __call__(self, rows: Pass, hints: torch.Tensor) -> Residuals:
        """Residuals of strength 1 of these rows, with hints (rows, C, h, w)."""
        added = {"text_embeds": rows.pooled, "time_ids": rows.time_ids} if self.added else None
        down, mid = self._network(
            rows.latents, rows.timesteps, encoder_hidden_states=rows.contexts, controlnet_cond=hints,
            added_cond_kwargs=added, return_dict=False)
        return Residuals(tuple(down), mid)


def _check_fit(name: str, own: Any, unet: Any) -> None:
    """Raises InvalidRequest when a ControlNet was made for another UNet."""
    for field, what in (("cross_attention_dim", "text context of width"), ("in_channels", "latent channels:"),
                        ("block_out_channels", "channels of its blocks:"), ("layers_per_block", "layers per block:")):
        mine, theirs = _plain(own[field]), _plain(unet[field])
        # A model for inpainting has further channels, which its ControlNets do not see.
        if mine != theirs and not (field == "in_channels" and theirs == 2 * mine + 1):
            raise InvalidRequest(
                f"ControlNet {name!r} does not fit this model: {what} {mine}, but the model has {theirs}",
                param="controls", code="family_mismatch")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


class T2IAdapter:
    """Its features are the same in every step."""

    def __init__(self, path: str, unet: Any, scale: int, device: torch.device, dtype: torch.dtype) -> None:
        """Raises InvalidRequest when the file is damaged, or was made for a UNet of another shape.

        Args:
            scale: pixels for each latent, along one side.
        """
        self._name = Path(path).name
        self._adapter = read_t2i_adapter(Path(path), dtype).to(device)
        self._inputs: int = self._adapter.config.in_channels
        self.width: int = unet.config.cross_attention_dim
        self._device, self._dtype = device, dtype
        self._check_fit(unet.config, scale)

    @torch.inference_mode()
    def _check_fit(self, unet: Any, scale: int) -> None:
        side = math.lcm(self._adapter.total_downscale_factor, scale * 2 ** len(unet.block_out_channels))
        blank = torch.zeros((1, self._inputs, side, side), device=self._device, dtype=self._dtype)
        given = [(one.shape[1], one.shape[2]) for one in self._adapter(blank)]
        wanted = _places(unet, side // scale)
        # What adapters for Stable Diffusion XL have left over goes to the middle.
        if given not in (wanted, [*wanted, wanted[-1]]):
            raise InvalidRequest(
                f"T2I-Adapter {self._name!r} does not fit this model: its features are {_words(given)}, but the UNet "
                f"takes {_words(wanted)}", param="controls", code="family_mismatch")

    def features(self, control: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Features (1, C, h, w) of each resolution, of a control map, uint8 (height, width, 3).

        Raises:
            InvalidRequest: the picture's sides are no multiples of what the adapter folds together.
        """
        fold = self._adapter.downscale_factor
        height, width = control.shape[:2]
        if height % fold or width % fold:
            raise InvalidRequest(
                f"the picture has {width}x{height} pixels; T2I-Adapter {self._name!r} needs multiples of {fold}",
                param="controls")
        values = torch.from_numpy(control.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
        if self._inputs == 1:
            values = values[:, :1]
        return tuple(self._adapter(values.to(self._device, self._dtype)))


def _places(unet: Any, side: int) -> list[tuple[int, int]]:
    """Channels and side of what the UNet's blocks take of a T2I-Adapter, for latents of `side`: those with attention
    before they halve it, the others after that."""
    found = []
    last = len(unet.block_out_channels) - 1
    for number, (kind, channels) in enumerate(zip(unet.down_block_types, unet.block_out_channels, strict=True)):
        found.append((channels, side if number == last or "CrossAttn" in kind else side // 2))
        side //= 2
    return found


def _words(places: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{channels} channels at {side}x{side}" for channels, side in places)
