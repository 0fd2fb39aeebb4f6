"""A VAE from a file of its own in place of the model's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file

from diptych.core.errors import InvalidRequest

Weights = dict[str, torch.Tensor]


def load_vae(path: Path, id: str, model: Any) -> Any:
    """The model with the VAE at `path`, a file or a folder of diffusers, in place of its own; all else is shared.

    Raises:
        InvalidRequest: it cannot be read, or makes latents of another kind than the model's.
    """
    own = model.vae.config
    try:
        vae = _folder(path) if path.is_dir() else _file(path, own)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StopIteration) as error:
        reason = str(error).strip().split("\n")[0].replace(str(path), path.name)[:200]
        raise InvalidRequest(f"vae {id!r} could not be loaded: {reason}", param="vae", code="vae_damaged") from error
    sides = [2 ** (len(one.config.block_out_channels) - 1) for one in (vae, model.vae)]
    if vae.config.latent_channels != own.latent_channels or sides[0] != sides[1]:
        raise InvalidRequest(
            f"vae {id!r} makes latents of {vae.config.latent_channels} channels and 1/{sides[0]} of the side, this "
            f"model paints with {own.latent_channels} channels and 1/{sides[1]}: it is for another family of models",
            param="vae", code="vae_misfit")
    vae.to(model.device, model.vae.dtype).eval().requires_grad_(False)
    coder = copy.copy(model)
    coder.vae, coder.modules = vae, (vae,)
    return coder


def _folder(path: Path) -> Any:
    config = json.loads((path / "config.json").read_text("utf-8"))
    kind = AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
    half = not any(path.glob("diffusion_pytorch_model.safetensors")) and any(path.glob("*.fp16.safetensors"))
    vae, info = kind.from_pretrained(path, output_loading_info=True, use_safetensors=True, local_files_only=True,
                                     low_cpu_mem_usage=True, **({"variant": "fp16"} if half else {}))
    if info["missing_keys"]:
        raise ValueError(f"it lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}")
    return vae


def _file(path: Path, own: Any) -> Any:
    """Configured by the shapes in it. Its latents are scaled as the model's: a file of weights alone tells no scale."""
    weights = {key.removeprefix("first_stage_model.").removeprefix("vae."): value
               for key, value in load_file(path).items() if not key.startswith(("loss.", "model_ema."))}
    if "encoder.layers.0.weight" in weights:
        return _filled(AutoencoderTiny.from_config(_tiny_config(weights)), weights)
    original = "encoder.down.0.block.0.conv1.weight" in weights
    name = "encoder.down.{}.block.{}.conv1.weight" if original else "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    channels: list[int] = []
    while (key := name.format(len(channels), 0)) in weights:
        channels.append(weights[key].shape[0])
    layers = sum(name.format(0, number) in weights for number in range(16))
    config = {
        "block_out_channels": channels, "layers_per_block": layers, "scaling_factor": own.scaling_factor,
        "latent_channels": weights["decoder.conv_in.weight"].shape[1], "sample_size": 512,
        "norm_num_groups": _groups(own, channels),
        "mid_block_add_attention": any(".mid.attn_1." in key or ".mid_block.attentions.0." in key for key in weights),
        "use_quant_conv": "quant_conv.weight" in weights, "use_post_quant_conv": "post_quant_conv.weight" in weights,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels)}
    with init_empty_weights():
        vae = AutoencoderKL.from_config(config)
    if original:
        named = {f"first_stage_model.{key}": value for key, value in weights.items()}
        weights = convert_ldm_vae_checkpoint(named, vae.config)
    return _filled(vae, weights)


def _groups(own: Any, channels: list[int]) -> int:
    """Groups of the norms: 32, unless a level is too narrow for so many; then those of the model's own VAE."""
    return 32 if all(count % 32 == 0 for count in channels) else int(getattr(own, "norm_num_groups", 32))


def _tiny_config(weights: Weights) -> dict[str, Any]:
    """TAESD and its kind: four levels of three blocks in the decoder, of one and then three in the encoder."""
    return {"latent_channels": weights["decoder.layers.0.weight"].shape[1]}


def _filled(vae: Any, weights: Weights) -> Any:
    """The VAE with exactly these weights."""
    vae.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True, assign=True)
    return vae
