"""Stable Diffusion 1, 2 and XL in one safetensors file with the key names of the original training code, as people
download them. All shapes are read from the file, so nothing is fetched. Weights are renamed by tables of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from diptych.engines.image.checkpoint_text import TextEncoder, Weights, filled, text_encoders

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SCHEDULE: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False,
    "clip_sample": False}
"""Of the training of all Stable Diffusion models before 3."""
LATENT_SCALES = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025, "sdxl-refiner": 0.13025}
SIZES = {"sd1": 64, "sd2": 96, "sdxl": 128, "sdxl-refiner": 128}
"""Latents along a side."""


@dataclass(frozen=True)
class Parts:
    """The parts of a model. `scheduler`: its configuration. `zeros`: without a negative prompt the embeddings are zeros
    (Stable Diffusion XL)."""

    unet: Any
    vae: Any
    encoders: list[TextEncoder]
    scheduler: dict[str, Any]
    zeros: bool = False


def load_checkpoint(path: Path, dtype: torch.dtype) -> Parts:
    """All parts of the model in a file.

    Raises:
        KeyError, ValueError, RuntimeError: weights are missing or of other shapes than their neighbours ask for.
    """
    weights = load_file(path)  # mapped: each part is read where it is converted
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    kind, encoders = text_encoders(weights, dtype)
    unet, vae = _unet(weights, kind, dtype), _vae(weights, kind, dtype)
    return Parts(unet, vae, encoders, _schedule(weights, metadata, kind, unet), zeros=kind == "sdxl")


def _schedule(weights: Weights, metadata: dict[str, str], kind: str, unet: Any) -> dict[str, Any]:
    """The scheduler's configuration. Files of XL models that predict the velocity carry a tensor of that name, and
    another where the schedule ends in pure noise."""
    told = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key")
    if not told and "v_pred" in weights:
        told = "v"
    if not told:
        told = _prediction(unet) if kind == "sd2" and unet.config.in_channels == 4 else "epsilon"
    config = {**SCHEDULE, "prediction_type": "v_prediction" if told.startswith("v") else "epsilon"}
    return {**config, "rescale_betas_zero_snr": True} if "ztsnr" in weights else config


def _unet(weights: Weights, kind: str, dtype: torch.dtype) -> Any:
    blocks = list(_levels(weights))
    channels = [block.channels for block in blocks]
    heads: int | list[int] = 8 if kind == "sd1" else [max(1, count // 64) for count in channels]
    context = next(weights[key].shape[1] for key in weights if key.startswith(UNET) and "attn2.to_k.weight" in key)
    linear = next(weights[key].ndim == 2 for key in weights if key.startswith(UNET) and "proj_in.weight" in key)
    config: dict[str, Any] = {
        "sample_size": SIZES[kind], "in_channels": weights[f"{UNET}input_blocks.0.0.weight"].shape[1],
        "out_channels": weights[f"{UNET}out.2.weight"].shape[0], "block_out_channels": channels,
        "layers_per_block": blocks[0].layers, "cross_attention_dim": context, "use_linear_projection": linear,
        # Diffusers' name says dimension and means the number of heads.
        "attention_head_dim": heads,
        "down_block_types": ["CrossAttnDownBlock2D" if block.depth else "DownBlock2D" for block in blocks],
        "up_block_types": ["CrossAttnUpBlock2D" if block.depth else "UpBlock2D" for block in reversed(blocks)]}
    if f"{UNET}label_emb.0.0.weight" in weights:
        middle = _depth(weights, f"{UNET}middle_block.1")
        # The last number is the middle's, too.
        depths = [block.depth or 1 for block in blocks[:-1]] + [blocks[-1].depth or middle]
        config |= _added(weights, kind) | {"transformer_layers_per_block": depths}
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    return filled(unet, convert_ldm_unet_checkpoint(dict(weights), unet.config), dtype)


def _added(weights: Weights, kind: str) -> dict[str, Any]:
    """What Stable Diffusion XL's UNet is told beside the text: a pooled text embedding, as wide as the second
    encoder's projection, and six numbers, of the refiner five (Podell et al. 2023, section 2.2 and 2.5)."""
    width = weights[f"{UNET}label_emb.0.0.weight"].shape[1]
    place = "conditioner.embedders.0." if kind == "sdxl-refiner" else "conditioner.embedders.1."
    pooled = weights[f"{place}model.text_projection"].shape[1]
    numbers = 5 if kind == "sdxl-refiner" else 6
    return {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": width,
            "addition_time_embed_dim": (width - pooled) // numbers}


@dataclass(frozen=True)
class Level:
    """One resolution of the UNet. `depth`: transformer blocks in each attention; 0: there is none."""

    channels: int
    layers: int
    depth: int


def _levels(weights: Weights) -> Iterator[Level]:
    """The UNet's resolutions, the finest first."""
    channels = layers = depth = 0
    number = 1
    while any(key.startswith(f"{UNET}input_blocks.{number}.") for key in weights):
        here = f"{UNET}input_blocks.{number}"
        if f"{here}.0.op.weight" in weights:
            yield Level(channels, layers, depth)
            layers = depth = 0
        else:
            channels, layers = weights[f"{here}.0.out_layers.3.weight"].shape[0], layers + 1
            depth = max(depth, _depth(weights, f"{here}.1"))
        number += 1
    yield Level(channels, layers, depth)


def _depth(weights: Weights, attention: str) -> int:
    """Transformer blocks of one attention; 0 where it is none."""
    depth = 0
    while f"{attention}.transformer_blocks.{depth}.norm1.weight" in weights:
        depth += 1
    return depth


def _vae(weights: Weights, kind: str, dtype: torch.dtype) -> Any:
    channels: list[int] = []
    layers = 0
    while (key := f"{VAE}encoder.down.{len(channels)}.block.0.conv1.weight") in weights:
        channels.append(weights[key].shape[0])
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in weights:
        layers += 1
    config: dict[str, Any] = {
        "block_out_channels": channels, "layers_per_block": layers, "scaling_factor": LATENT_SCALES[kind],
        "latent_channels": weights[f"{VAE}post_quant_conv.weight"].shape[0], "sample_size": 512,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels)}
    with init_empty_weights():
        vae = AutoencoderKL.from_config(config)
    return filled(vae, convert_ldm_vae_checkpoint(dict(weights), vae.config), dtype)


@torch.inference_mode()
def _prediction(unet: Any) -> str:
    """Whether a Stable Diffusion 2 model was trained to predict the velocity (768 pixels) or the noise (512 pixels),
    where the file does not say: at the noisiest step the noise is nearly the input itself, the velocity nearly its
    opposite."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, unet.config.in_channels, 16, 16), generator=generator).to(unet.dtype)
    context = torch.zeros((1, 1, unet.config.cross_attention_dim), dtype=unet.dtype)
    answer = unet(noise, torch.tensor([999]), encoder_hidden_states=context, return_dict=False)[0]
    return "v" if float((answer.float() * noise.float()).mean()) < 0 else "epsilon"
