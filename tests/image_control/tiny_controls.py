"""Tiny ControlNets and adapters with random weights for a tiny Stable Diffusion, and pictures to guide with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, T2IAdapter, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from tiny_families import NO_PARTS, clip, clip_tokens, euler, unet, vae
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

SIZE = 32
"""Pixels of the model's own pictures."""


def write_base(folder: Path) -> Path:
    torch.manual_seed(3)
    words = clip_tokens(folder / "words")
    StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(words), tokenizer=words, scheduler=euler(),
        # T2I-Adapters ask for attention at the finest resolution, as Stable Diffusion has it.
        unet=unet(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        requires_safety_checker=False, **NO_PARTS).save_pretrained(folder)
    return folder


def controlnet(base: Any, seed: int, **changes: Any) -> ControlNetModel:
    """As it is after training: nothing in it is zero. The tiny VAE halves pictures, and so does the hint."""
    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(8, 16))
    for part in (network.controlnet_down_blocks, network.controlnet_mid_block,
                 network.controlnet_cond_embedding.conv_out):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    network.register_to_config(**changes)
    return network


def t2i_adapter(seed: int, **changes: Any) -> T2IAdapter:
    torch.manual_seed(seed)
    adapter = T2IAdapter(**{
        "in_channels": 3, "channels": [16, 32], "num_res_blocks": 2, "downscale_factor": 2, **changes})
    for parameter in adapter.parameters():
        parameter.data *= 2  # enough to be seen
    return adapter


def image_encoder(seed: int = 4) -> CLIPVisionModelWithProjection:
    torch.manual_seed(seed)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, projection_dim=24, num_hidden_layers=3, num_attention_heads=4,
        image_size=30, patch_size=6)).eval()


def write_ip_adapter(path: Path, base: UNet2DConditionModel, seed: int, plus: bool = False) -> Path:
    """A file with the keys of the published ones; `plus`: with a resampler of the encoder's states."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    width, tokens = base.config.cross_attention_dim, 4
    weights = _resampler(tensor, width) if plus else {
        "image_proj.proj.weight": tensor(tokens * width, 24), "image_proj.proj.bias": tensor(tokens * width),
        "image_proj.norm.weight": 1 + tensor(width), "image_proj.norm.bias": tensor(width)}
    names = [name for name in base.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(names):
        inner = base.get_submodule(name.removesuffix(".processor")).to_k.out_features
        weights |= {f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight": tensor(inner, width) for kind in "kv"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def _resampler(tensor: Any, width: int) -> dict[str, torch.Tensor]:
    """Four layers, each with one attention head of 64 features."""
    inner = 64
    found = {
        "latents": tensor(1, 4, inner), "proj_in.weight": tensor(inner, 32), "proj_in.bias": tensor(inner),
        "proj_out.weight": tensor(width, inner), "proj_out.bias": tensor(width),
        "norm_out.weight": 1 + tensor(width), "norm_out.bias": tensor(width)}
    for layer in range(4):
        found |= {f"layers.{layer}.{name}.weight": 1 + tensor(inner) for name in ("0.norm1", "0.norm2", "1.0")}
        found |= {f"layers.{layer}.{name}.bias": tensor(inner) for name in ("0.norm1", "0.norm2", "1.0")}
        shapes = {"0.to_q": (inner, inner), "0.to_kv": (2 * inner, inner), "0.to_out": (inner, inner),
                  "1.1": (4 * inner, inner), "1.3": (inner, 4 * inner)}
        found |= {f"layers.{layer}.{name}.weight": tensor(*shape, scale=0.1) for name, shape in shapes.items()}
    return {f"image_proj.{name}": value for name, value in found.items()}


def drawing(kind: str, size: int = SIZE) -> Image.Image:
    """A map of white lines on black."""
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    if kind == "disc":
        draw.ellipse((size // 5, size // 5, size - size // 5, size - size // 5), outline=(255, 255, 255), width=2)
    else:
        draw.rectangle((size // 8, size // 3, size - size // 4, size - size // 8), outline=(255, 255, 255), width=2)
    return picture
