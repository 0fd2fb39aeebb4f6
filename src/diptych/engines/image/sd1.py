"""Stable Diffusion 1 and 2: a CLIP text encoder, a UNet and a VAE, in a folder in diffusers' layout or in one file.

Weights load from safetensors only. The parts are loaded one by one: the pipeline classes above them are not needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel
from transformers.utils.logging import disable_progress_bar

from diptych.core.errors import InvalidRequest, JobFailed
from diptych.core.size_hints import SizeHints
from diptych.engines.image.adapters.extras import ModelAdapters
from diptych.engines.image.adapters.names import UNET
from diptych.engines.image.checkpoint import Parts, load_checkpoint
from diptych.engines.image.checkpoint_text import TextEncoder
from diptych.engines.image.conditioning import ClipEncoder
from diptych.engines.image.conditioning_xl import DoubleEncoder
from diptych.engines.image.control.prompts import ImagePrompting
from diptych.engines.image.folder import check_layout, load_tokenizer, load_weights, read_json
from diptych.engines.image.model import Contexts, Moments, Pass
from diptych.engines.image.prompting import Texts

log = logging.getLogger(__name__)

VAES = ("AutoencoderKL", "AutoencoderTiny")
LAYOUT = {"unet": ("UNet2DConditionModel",), "text_encoder": ("CLIPTextModel",), "vae": VAES}


class StableDiffusion1:
    """The model's parts and the three computations on them. See `ImageModel` for the members."""

    def __init__(
        self, unet: Any, vae: Any, encoder: ClipEncoder | DoubleEncoder, scheduler_config: Mapping[str, Any],
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.modules: tuple[torch.nn.Module, ...] = (unet, vae)
        self._encoder = encoder
        self.text_layers = encoder.layers
        self.scheduler_config = scheduler_config
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.latent_channels: int = vae.config.latent_channels
        self.extra_channels: int = unet.config.in_channels - self.latent_channels
        if self.extra_channels not in (0, 1 + self.latent_channels):
            raise InvalidRequest(
                f"the model's UNet takes {unet.config.in_channels} channels, the VAE makes {self.latent_channels}; "
                "models for pictures and for inpainting can be used", param="model")
        self.scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        # Diffusers' pipeline asks for multiples of 8; a UNet pads odd latents on its way down.
        self.multiple = math.lcm(8, self.scale_factor)
        side = unet.config.sample_size
        self.size = (side if isinstance(side, int) else side[0]) * self.scale_factor
        self._prompting: ImagePrompting | None = None
        self._guidance_features: int | None = unet.config.time_cond_proj_dim
        self.distilled_guidance = self._guidance_features is not None
        self.adapters = ModelAdapters(unet, encoder.parts)

    def encode(self, texts: Texts) -> Contexts:
        return self._encoder(texts)

    def time_ids(self, contexts: Contexts, hints: SizeHints, width: int, height: int) -> torch.Tensor | None:
        return None

    def predict(self, rows: Pass) -> torch.Tensor:
        with self.adapters.layers.using(UNET, rows.adapters):
            return self._predict(rows)

    def _predict(self, rows: Pass) -> torch.Tensor:
        if rows.image_prompts and self._prompting is None:
            # The UNet's attentions are left alone until the first request with an IP-Adapter.
            self._prompting = ImagePrompting(self.unet)
        if self._prompting is None:
            return self._predicted(rows)
        with self._prompting.showing(rows.image_prompts):
            return self._predicted(rows)

    def _predicted(self, rows: Pass) -> torch.Tensor:
        condition = None
        if self._guidance_features is not None:
            condition = guidance_embedding(rows.guidance - 1.0, self._guidance_features).to(self.device, self.dtype)
        latents = rows.latents if rows.extra is None else torch.cat([rows.latents, rows.extra], dim=1)
        added = None if rows.pooled is None else {"text_embeds": rows.pooled, "time_ids": rows.time_ids}
        prediction: torch.Tensor = self.unet(
            latents, rows.timesteps, encoder_hidden_states=rows.contexts, timestep_cond=condition,
            down_block_additional_residuals=rows.down or None, mid_block_additional_residual=rows.mid,
            down_intrablock_additional_residuals=list(rows.intrablock) or None,
            added_cond_kwargs=added, return_dict=False)[0]
        return prediction

    def encode_picture(self, pixels: np.ndarray, hidden: np.ndarray | None = None) -> Moments:
        values = 2 * torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255 - 1
        if hidden is not None:
            values[:, :, torch.from_numpy(hidden)] = 0
        seen = encoded(self.vae, values.to(self.device))
        return Moments(seen.mean.to(self.dtype), None if seen.std is None else seen.std.to(self.dtype))

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        plain = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = self.vae.decode(plain, return_dict=False)[0][0]
        if not bool(torch.isfinite(pixels).all()):
            raise JobFailed("the VAE's picture has values that are not finite numbers", code="not_finite")
        picture: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
        return np.asarray((picture * 255).round(), dtype=np.uint8)


def encoded(vae: Any, values: torch.Tensor) -> Moments:
    """Values (1, 3, height, width) from -1 to 1 as the encoder of a VAE of diffusers sees them."""
    scale = vae.config.scaling_factor
    output = vae.encode(values.to(vae.dtype))
    if not hasattr(output, "latent_dist"):
        return Moments(output.latents * scale, None)
    spread = output.latent_dist
    return Moments(spread.mean * scale, spread.std * scale)


def guidance_embedding(scale: torch.Tensor, features: int) -> torch.Tensor:
    """Sinusoidal embedding (rows, features) of `scale` (rows,) that latent consistency UNets were distilled with
    (Luo et al. 2023, https://arxiv.org/abs/2310.04378)."""
    half = features // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1)))
    angles = 1000.0 * scale.to(torch.float32)[:, None] * frequencies[None, :]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, features - 2 * half))


def load_model(path: str, device: torch.device, dtype: torch.dtype) -> StableDiffusion1:
    """Load a folder, or a checkpoint in one file.

    Raises:
        InvalidRequest: it is no such model with safetensors weights, and what is missing.
    """
    parts = load_parts(path, device, dtype, _load_folder)
    (words,) = parts.encoders
    return StableDiffusion1(parts.unet, parts.vae, ClipEncoder(words.tokenizer, words.model, device), parts.scheduler)


def load_parts(
    path: str, device: torch.device, dtype: torch.dtype, load_folder: Callable[[Path, torch.dtype], Parts],
) -> Parts:
    """The parts of a folder or of a checkpoint, on their device.

    Raises:
        InvalidRequest: they could not be loaded, and why.
    """
    disable_progress_bar()
    place = Path(path)
    try:
        parts = load_checkpoint(place, dtype) if place.is_file() else load_folder(place, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StopIteration) as error:
        log.exception("model %s could not be loaded", place.name)
        reason = str(error).strip().split("\n")[0].replace(str(place), place.name)[:300]
        what = "file" if place.is_file() else "folder"
        raise InvalidRequest(f"model {what} {place.name!r} could not be loaded: {reason}", param="model") from error
    for part in (parts.unet, parts.vae, *(words.model for words in parts.encoders)):
        part.to(device).eval().requires_grad_(False)
    return parts


def _load_folder(folder: Path, dtype: torch.dtype) -> Parts:
    found = check_layout(folder, LAYOUT, ("tokenizer", "scheduler"))
    vae_class = AutoencoderTiny if found["vae"] == "AutoencoderTiny" else AutoencoderKL
    unet = load_weights(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
    vae = load_weights(vae_class, folder / "vae", torch_dtype=dtype)
    text_encoder = load_weights(CLIPTextModel, folder / "text_encoder", dtype=dtype)
    tokenizer = load_tokenizer(folder / "tokenizer", text_encoder.config.vocab_size)
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    return Parts(unet, vae, [TextEncoder(tokenizer, text_encoder)], config)
