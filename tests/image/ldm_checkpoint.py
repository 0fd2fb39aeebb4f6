"""Stable Diffusion checkpoints with the key names and layout of the original training code, small, with random weights;
and folders of configurations that tell diffusers what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diptych.engines.image.clip_words import clip_tokenizer

CHANNELS, ATTENTION, WORDS, TIMES = (64, 128), (True, False), 64, 256
"""Of the UNet's levels; the width of the text encoder; the width of the embedded time."""
VAE = (32, 64)
TEXT_LAYERS, TOKENS, VOCABULARY = 2, 77, 49408


class Checkpoint:
    """Collects tensors by the original names."""

    def __init__(self, second: bool) -> None:
        self.second = second
        self.weights: dict[str, torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(11)

    def add(self, name: str, *shape: int, scale: float = 0.05, base: float = 0.0) -> None:
        self.weights[name] = base + scale * torch.randn(shape, generator=self._generator)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", *shape, scale=0.7 / max(1, int(torch.tensor(shape[1:]).prod())) ** 0.5)
        if bias:
            self.add(f"{name}.bias", shape[0], scale=0.01)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, base=1.0)
        self.add(f"{name}.bias", width)

    def residual(self, name: str, before: int, after: int, time: str | None) -> None:
        """Of the UNet where `time` names the layer of the embedded time; else of the VAE."""
        names = ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "skip_connection") if time else (
            "norm1", "conv1", "norm2", "conv2", "nin_shortcut")
        self.norm(f"{name}.{names[0]}", before)
        self.layer(f"{name}.{names[1]}", after, before, 3, 3)
        if time:
            self.layer(f"{name}.{time}", after, TIMES)
        self.norm(f"{name}.{names[2]}", after)
        self.layer(f"{name}.{names[3]}", after, after, 3, 3)
        if before != after:
            self.layer(f"{name}.{names[4]}", after, before, 1, 1)

    def transformer(self, name: str, width: int) -> None:
        side = () if self.second else (1, 1)
        self.norm(f"{name}.norm", width)
        self.layer(f"{name}.proj_in", width, width, *side)
        block = f"{name}.transformer_blocks.0"
        for attention, context in (("attn1", width), ("attn2", WORDS)):
            for part, before in (("to_q", width), ("to_k", context), ("to_v", context)):
                self.layer(f"{block}.{attention}.{part}", width, before, bias=False)
            self.layer(f"{block}.{attention}.to_out.0", width, width)
        for number in (1, 2, 3):
            self.norm(f"{block}.norm{number}", width)
        self.layer(f"{block}.ff.net.0.proj", 8 * width, width)
        self.layer(f"{block}.ff.net.2", width, 4 * width)
        self.layer(f"{name}.proj_out", width, width, *side)


def _unet(made: Checkpoint) -> None:
    top, times = "model.diffusion_model", "emb_layers.1"
    made.layer(f"{top}.time_embed.0", TIMES, CHANNELS[0])
    made.layer(f"{top}.time_embed.2", TIMES, TIMES)
    made.layer(f"{top}.input_blocks.0.0", CHANNELS[0], 4, 3, 3)
    skips, width, number = [CHANNELS[0]], CHANNELS[0], 1
    for level, channels in enumerate(CHANNELS):
        made.residual(f"{top}.input_blocks.{number}.0", width, channels, times)
        if ATTENTION[level]:
            made.transformer(f"{top}.input_blocks.{number}.1", channels)
        width, number = channels, number + 1
        skips.append(width)
        if level < len(CHANNELS) - 1:
            made.layer(f"{top}.input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    made.residual(f"{top}.middle_block.0", width, width, times)
    made.transformer(f"{top}.middle_block.1", width)
    made.residual(f"{top}.middle_block.2", width, width, times)
    number = 0
    for level in reversed(range(len(CHANNELS))):
        for position in range(2):
            here = f"{top}.output_blocks.{number}"
            made.residual(f"{here}.0", width + skips.pop(), CHANNELS[level], times)
            width, number = CHANNELS[level], number + 1
            if ATTENTION[level]:
                made.transformer(f"{here}.1", width)
            if level and position == 1:
                made.layer(f"{here}.{2 if ATTENTION[level] else 1}.conv", width, width, 3, 3)
    made.norm(f"{top}.out.0", width)
    made.layer(f"{top}.out.2", 4, width, 3, 3)


def _vae(made: Checkpoint) -> None:
    top = "first_stage_model"
    width = VAE[0]
    made.layer(f"{top}.encoder.conv_in", width, 3, 3, 3)
    for level, channels in enumerate(VAE):
        made.residual(f"{top}.encoder.down.{level}.block.0", width, channels, None)
        width = channels
        if level < len(VAE) - 1:
            made.layer(f"{top}.encoder.down.{level}.downsample.conv", width, width, 3, 3)
    _vae_ends(made, f"{top}.encoder", width, 8)
    made.layer(f"{top}.decoder.conv_in", width, 4, 3, 3)
    for level in reversed(range(len(VAE))):
        for number in range(2):
            made.residual(f"{top}.decoder.up.{level}.block.{number}", width, VAE[level], None)
            width = VAE[level]
        if level:
            made.layer(f"{top}.decoder.up.{level}.upsample.conv", width, width, 3, 3)
    _vae_ends(made, f"{top}.decoder", VAE[-1], 3, width)
    made.layer(f"{top}.quant_conv", 8, 8, 1, 1)
    made.layer(f"{top}.post_quant_conv", 4, 4, 1, 1)


def _vae_ends(made: Checkpoint, top: str, middle: int, out: int, last: int | None = None) -> None:
    made.residual(f"{top}.mid.block_1", middle, middle, None)
    made.norm(f"{top}.mid.attn_1.norm", middle)
    for part in ("q", "k", "v", "proj_out"):
        made.layer(f"{top}.mid.attn_1.{part}", middle, middle, 1, 1)
    made.residual(f"{top}.mid.block_2", middle, middle, None)
    made.norm(f"{top}.norm_out", last or middle)
    made.layer(f"{top}.conv_out", out, last or middle, 3, 3)


def _words(made: Checkpoint) -> None:
    top = "cond_stage_model.transformer.text_model"
    made.add(f"{top}.embeddings.token_embedding.weight", VOCABULARY, WORDS)
    made.add(f"{top}.embeddings.position_embedding.weight", TOKENS, WORDS)
    made.weights[f"{top}.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    for number in range(TEXT_LAYERS):
        here = f"{top}.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made.layer(f"{here}.self_attn.{part}", WORDS, WORDS)
        made.norm(f"{here}.layer_norm1", WORDS)
        made.norm(f"{here}.layer_norm2", WORDS)
        made.layer(f"{here}.mlp.fc1", 4 * WORDS, WORDS)
        made.layer(f"{here}.mlp.fc2", WORDS, 4 * WORDS)
    made.norm(f"{top}.final_layer_norm", WORDS)


def _open_words(made: Checkpoint) -> None:
    """One layer more than is used."""
    top = "cond_stage_model.model"
    made.add(f"{top}.token_embedding.weight", VOCABULARY, WORDS)
    made.add(f"{top}.positional_embedding", TOKENS, WORDS)
    made.add(f"{top}.text_projection", WORDS, WORDS)
    made.weights[f"{top}.logit_scale"] = torch.tensor(4.6)
    for number in range(TEXT_LAYERS + 1):
        here = f"{top}.transformer.resblocks.{number}"
        made.add(f"{here}.attn.in_proj_weight", 3 * WORDS, WORDS)
        made.add(f"{here}.attn.in_proj_bias", 3 * WORDS)
        made.layer(f"{here}.attn.out_proj", WORDS, WORDS)
        made.norm(f"{here}.ln_1", WORDS)
        made.norm(f"{here}.ln_2", WORDS)
        made.layer(f"{here}.mlp.c_fc", 4 * WORDS, WORDS)
        made.layer(f"{here}.mlp.c_proj", WORDS, 4 * WORDS)
    made.norm(f"{top}.ln_final", WORDS)


def write_checkpoint(path: Path, second: bool = False, metadata: dict[str, str] | None = None) -> Path:
    """A checkpoint of Stable Diffusion 1, or of 2."""
    made = Checkpoint(second)
    _unet(made)
    _vae(made)
    (_open_words if second else _words)(made)
    made.add("betas", 1000)  # files that people share carry such remains of the training
    made.add("model_ema.decay", 1)
    save_file(made.weights, path, metadata)
    return path


def write_configs(folder: Path, second: bool, prediction: str) -> Path:
    """What diffusers would fetch from a hub to read such a file."""
    config: dict[str, Any] = {
        "sample_size": 64, "block_out_channels": CHANNELS, "layers_per_block": 1, "cross_attention_dim": WORDS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "use_linear_projection": second,
        "attention_head_dim": (1, 2) if second else 8}
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(**config), text_encoder=CLIPTextModel(CLIPTextConfig(
            vocab_size=VOCABULARY, hidden_size=WORDS, projection_dim=WORDS, intermediate_size=4 * WORDS,
            num_hidden_layers=TEXT_LAYERS, num_attention_heads=1, hidden_act="gelu" if second else "quick_gelu")),
        vae=AutoencoderKL(
            block_out_channels=VAE, latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2, scaling_factor=0.18215),
        tokenizer=clip_tokenizer("!" if second else "<|endoftext|>"), scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
            clip_sample=False, prediction_type=prediction),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder
