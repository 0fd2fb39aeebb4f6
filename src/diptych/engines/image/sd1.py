"""Stable Diffusion 1 and 2: a CLIP text encoder, a UNet and a VAE, in a folder in diffusers' layout or in one file.

Weights load from safetensors only. The parts are loaded one by one: the pipeline classes above them are not needed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from diptych.core.errors import InvalidRequest, JobFailed
from diptych.engines.image.checkpoint import Parts, load_checkpoint
from diptych.engines.image.conditioning import ClipEncoder
from diptych.engines.image.model import Contexts
from diptych.engines.image.prompting import Texts

log = logging.getLogger(__name__)

VAES = ("AutoencoderKL", "AutoencoderTiny")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class StableDiffusion1:
    """The model's parts and the three computations on them. See `ImageModel` for the members."""

    def __init__(self, unet: Any, vae: Any, encoder: ClipEncoder, scheduler_config: Mapping[str, Any]) -> None:
        self.unet = unet
        self.vae = vae
        self._encoder = encoder
        self.text_layers = encoder.layers
        self.scheduler_config = scheduler_config
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.latent_channels: int = unet.config.in_channels
        self.scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        # Diffusers' pipeline asks for multiples of 8; a UNet pads odd latents on its way down.
        self.multiple = math.lcm(8, self.scale_factor)
        side = unet.config.sample_size
        self.size = (side if isinstance(side, int) else side[0]) * self.scale_factor
        self._guidance_features: int | None = unet.config.time_cond_proj_dim
        self.distilled_guidance = self._guidance_features is not None

    def encode(self, texts: Texts) -> Contexts:
        return self._encoder(texts)

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, contexts: torch.Tensor, guidance: torch.Tensor
    ) -> torch.Tensor:
        condition = None
        if self._guidance_features is not None:
            condition = guidance_embedding(guidance - 1.0, self._guidance_features).to(self.device, self.dtype)
        prediction: torch.Tensor = self.unet(
            latents, timesteps, encoder_hidden_states=contexts, timestep_cond=condition, return_dict=False)[0]
        return prediction

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0][0]
        if not bool(torch.isfinite(pixels).all()):
            raise JobFailed("the VAE's picture has values that are not finite numbers", code="not_finite")
        picture: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
        return np.asarray((picture * 255).round(), dtype=np.uint8)


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
    disable_progress_bar()
    place = Path(path)
    try:
        unet, vae, text_encoder, tokenizer, config = (
            load_checkpoint(place, dtype) if place.is_file() else _load_folder(place, dtype))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StopIteration) as error:
        log.exception("model %s could not be loaded", place.name)
        reason = str(error).strip().split("\n")[0].replace(str(place), place.name)[:300]
        what = "file" if place.is_file() else "folder"
        raise InvalidRequest(f"model {what} {place.name!r} could not be loaded: {reason}", param="model") from error
    for part in (unet, vae, text_encoder):
        part.to(device).eval().requires_grad_(False)
    return StableDiffusion1(unet, vae, ClipEncoder(tokenizer, text_encoder, device), config)


def _load_folder(folder: Path, dtype: torch.dtype) -> Parts:
    vae_class = AutoencoderTiny if _check_layout(folder) == "AutoencoderTiny" else AutoencoderKL
    unet = _load_weights(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
    vae = _load_weights(vae_class, folder / "vae", torch_dtype=dtype)
    text_encoder = _load_weights(CLIPTextModel, folder / "text_encoder", dtype=dtype)
    tokenizer = _load_tokenizer(folder / "tokenizer", text_encoder.config.vocab_size)
    return unet, vae, text_encoder, tokenizer, _json(folder / "scheduler" / "scheduler_config.json")


def _check_layout(folder: Path) -> str:
    """Name of the VAE's class; raises InvalidRequest when a part is missing or of another kind."""
    index = _json(folder / "model_index.json")
    missing = [name for name in PARTS if name not in index or not (folder / name).is_dir()]
    if missing:
        raise InvalidRequest(f"model folder {folder.name!r} has no {', '.join(missing)}", param="model")
    expected = {"unet": ("UNet2DConditionModel",), "text_encoder": ("CLIPTextModel",), "vae": VAES}
    for part, names in expected.items():
        found = index[part][1] if isinstance(index[part], list) and len(index[part]) == 2 else None
        if found not in names:
            raise InvalidRequest(
                f"{part} of model {folder.name!r} is {found!r}; supported: {', '.join(names)}", param="model")
    return str(index["vae"][1])


def _load_weights(part: Any, folder: Path, **options: Any) -> Any:
    """A part with all its weights, from safetensors and nothing else; the half precision copy if it is alone."""
    files = [file.name for file in folder.iterdir() if file.name.endswith(".safetensors")]
    if not files:
        raise InvalidRequest(
            f"{folder.name} of model {folder.parent.name!r} has no safetensors weights", param="model")
    if all(".fp16" in name for name in files):
        options["variant"] = "fp16"
    options |= {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": True}
    module, info = part.from_pretrained(folder, output_loading_info=True, **options)
    # The libraries fill what a file lacks with random numbers and a warning.
    if info["missing_keys"]:
        raise ValueError(f"{folder.name} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}")
    return module


def _load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """CLIP's tokenizer; the library makes an empty one of a folder without a vocabulary."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ValueError(f"{folder.name} has neither tokenizer.json nor vocab.json")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > vocabulary:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the text encoder {vocabulary}")
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path.parent.name}/{path.name} cannot be read", param="model") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path.parent.name}/{path.name} is not a JSON object", param="model")
    return found
