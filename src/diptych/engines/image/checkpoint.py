"""Stable Diffusion 1 and 2 in one safetensors file with the key names of the original training code, as people download
them. All shapes are read from the file, so nothing is fetched. The weights are renamed by diffusers' own tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from diptych.engines.image.clip_words import clip_tokenizer

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
SCHEDULE: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False,
    "clip_sample": False}
"""Of the training of all Stable Diffusion 1 and 2 models."""
LATENT_SCALE = 0.18215
Weights = dict[str, torch.Tensor]
Parts = tuple[Any, Any, Any, Any, dict[str, Any]]
"""UNet, VAE, text encoder, tokenizer, configuration of the scheduler."""


def load_checkpoint(path: Path, dtype: torch.dtype) -> Parts:
    """All parts of the model in a file.

    Raises:
        KeyError, ValueError, RuntimeError: weights are missing or of other shapes than their neighbours ask for.
    """
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    second = f"{OPEN_CLIP}token_embedding.weight" in weights
    encoder = _open_clip(weights) if second else _clip(weights)
    unet, vae = _unet(weights, second), _vae(weights)
    tokenizer = clip_tokenizer("!" if second else "<|endoftext|>", encoder.config.max_position_embeddings)
    unet, vae, encoder = (part.to(dtype).eval() for part in (unet, vae, encoder))
    prediction = metadata.get("modelspec.prediction_type") or (_prediction(unet) if second else "epsilon")
    return unet, vae, encoder, tokenizer, {**SCHEDULE, "prediction_type": "v_prediction" if prediction.startswith(
        "v") else "epsilon"}


def _filled(module: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """The module with exactly these weights."""
    module.load_state_dict(weights, strict=True)
    return module


def _unet(weights: Weights, second: bool) -> Any:
    blocks = list(_levels(weights))
    channels = [block[0] for block in blocks]
    attention = [block[2] for block in blocks]
    context = next(weights[key].shape[1] for key in weights if key.startswith(UNET) and "attn2.to_k.weight" in key)
    linear = next(weights[key].ndim == 2 for key in weights if key.startswith(UNET) and "proj_in.weight" in key)
    config: dict[str, Any] = {
        "sample_size": 96 if second else 64, "in_channels": weights[f"{UNET}input_blocks.0.0.weight"].shape[1],
        "out_channels": weights[f"{UNET}out.2.weight"].shape[0], "block_out_channels": channels,
        "layers_per_block": blocks[0][1], "cross_attention_dim": context, "use_linear_projection": linear,
        # Diffusers' name says dimension and means the number of heads.
        "attention_head_dim": [max(1, count // 64) for count in channels] if second else 8,
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)]}
    unet = UNet2DConditionModel.from_config(config)
    return _filled(unet, convert_ldm_unet_checkpoint(dict(weights), unet.config))


def _levels(weights: Weights) -> Iterator[tuple[int, int, bool]]:
    """Channels, residual blocks and whether there is attention, of each resolution of the UNet, the finest first."""
    channels = layers = 0
    attends = False
    number = 1
    while any(key.startswith(f"{UNET}input_blocks.{number}.") for key in weights):
        here = f"{UNET}input_blocks.{number}"
        if f"{here}.0.op.weight" in weights:
            yield channels, layers, attends
            layers, attends = 0, False
        else:
            channels, layers = weights[f"{here}.0.out_layers.3.weight"].shape[0], layers + 1
            attends = attends or f"{here}.1.proj_in.weight" in weights
        number += 1
    yield channels, layers, attends


def _vae(weights: Weights) -> Any:
    channels: list[int] = []
    layers = 0
    while (key := f"{VAE}encoder.down.{len(channels)}.block.0.conv1.weight") in weights:
        channels.append(weights[key].shape[0])
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in weights:
        layers += 1
    config: dict[str, Any] = {
        "block_out_channels": channels, "layers_per_block": layers, "scaling_factor": LATENT_SCALE,
        "latent_channels": weights[f"{VAE}post_quant_conv.weight"].shape[0], "sample_size": 512,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels)}
    vae = AutoencoderKL.from_config(config)
    return _filled(vae, convert_ldm_vae_checkpoint(dict(weights), vae.config))


def _clip(weights: Weights) -> Any:
    """OpenAI's encoder, whose keys are those of transformers."""
    own = {key.removeprefix(CLIP): value for key, value in weights.items()
           if key.startswith(CLIP) and not key.endswith("position_ids")}
    words = own["embeddings.token_embedding.weight"]
    layers = len({key.split(".")[2] for key in own if key.startswith("encoder.layers.")})
    config = _text_config(words.shape, own["embeddings.position_embedding.weight"].shape[0], layers,
                          own["encoder.layers.0.mlp.fc1.weight"].shape[0], "quick_gelu")
    return _filled(CLIPTextModel(config), own)


def _open_clip(weights: Weights) -> Any:
    """OpenCLIP's encoder, of which Stable Diffusion 2 uses the last layer but one: the last is left out."""
    blocks = f"{OPEN_CLIP}transformer.resblocks."
    layers = len({key.removeprefix(blocks).split(".")[0] for key in weights if key.startswith(blocks)})
    last = f"{blocks}{layers - 1}."
    kept = {key: value for key, value in weights.items() if not key.startswith(last)}
    config = _text_config(
        weights[f"{OPEN_CLIP}token_embedding.weight"].shape, weights[f"{OPEN_CLIP}positional_embedding"].shape[0],
        layers - 1, weights[f"{blocks}0.mlp.c_fc.weight"].shape[0], "gelu")
    encoder = CLIPTextModel(config)
    found = convert_open_clip_checkpoint(encoder, kept, prefix=OPEN_CLIP)
    wanted = encoder.state_dict()
    return _filled(encoder, {key.removeprefix("text_model."): value for key, value in found.items()
                             if key.removeprefix("text_model.") in wanted})


def _text_config(words: torch.Size, length: int, layers: int, intermediate: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words[0], hidden_size=words[1], projection_dim=words[1], intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=max(1, words[1] // 64), max_position_embeddings=length,
        hidden_act=activation, bos_token_id=words[0] - 2, eos_token_id=words[0] - 1, pad_token_id=1)


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
