"""Names and shapes of the tensors in Stable Diffusion checkpoints (1, 2, XL, XL's refiner, and those for inpainting) as
the original training code names them, at the real sizes or smaller ones; and a writer that needs little memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

VOCABULARY, TOKENS = 49408, 77
BLOCK = 1 << 22
"""Random values that are drawn once and repeated; tensors begin at different places of them."""


class Tensor(NamedTuple):
    """`spread` and `mean` of its random values."""

    name: str
    shape: tuple[int, ...]
    spread: float
    mean: float = 0.0


@dataclass(frozen=True)
class Clip:
    """A text encoder: OpenAI's, or OpenCLIP's where `projection` is given. All layers are counted."""

    prefix: str
    width: int
    layers: int
    projection: int | None = None


@dataclass(frozen=True)
class Layout:
    """A checkpoint. `channels` and `depths` are of the UNet's levels; `depths` counts transformer blocks, 0 for no
    attention. `told`: values that XL's UNet is told beside the text."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    context: int
    encoders: tuple[Clip, ...]
    blocks: int = 2
    linear: bool = True
    told: int | None = None
    inputs: int = 4
    vae: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2


def layout(kind: str, inputs: int = 4) -> Layout:
    """Of the real size: "sd1", "sd2", "sdxl" or "sdxl-refiner"."""
    four, three = (320, 640, 1280, 1280), (320, 640, 1280)
    first = Clip("cond_stage_model.transformer.text_model.", 768, 12)
    if kind == "sd1":
        return Layout(four, (1, 1, 1, 0), 1, 768, (first,), linear=False, inputs=inputs)
    if kind == "sd2":
        return Layout(four, (1, 1, 1, 0), 1, 1024, (Clip("cond_stage_model.model.", 1024, 24, 1024),), inputs=inputs)
    if kind == "sdxl":
        encoders = (Clip("conditioner.embedders.0.transformer.text_model.", 768, 12),
                    Clip("conditioner.embedders.1.model.", 1280, 32, 1280))
        return Layout(three, (0, 2, 10), 10, 2048, encoders, told=2816, inputs=inputs)
    encoders = (Clip("conditioner.embedders.0.model.", 1280, 32, 1280),)
    return Layout((384, 768, 1536, 1536), (0, 4, 4, 0), 4, 1280, encoders, told=2560, inputs=inputs)


def small(kind: str, inputs: int = 4) -> Layout:
    """As `layout`, with the fewest channels that the groups of 32 and the heads of 64 allow."""
    shape: dict[str, Any] = {"blocks": 1, "vae": (32, 64), "vae_blocks": 1, "inputs": inputs}
    clip = Clip("cond_stage_model.transformer.text_model.", 64, 2)
    if kind == "sd1":
        return Layout((64, 128), (1, 0), 1, 64, (clip,), linear=False, **shape)
    if kind == "sd2":
        return Layout((64, 128), (1, 0), 1, 64, (Clip("cond_stage_model.model.", 64, 3, 64),), **shape)
    if kind == "sdxl":
        encoders = (Clip("conditioner.embedders.0.transformer.text_model.", 64, 3),
                    Clip("conditioner.embedders.1.model.", 128, 3, 128))
        return Layout((64, 128), (0, 2), 2, 192, encoders, told=128 + 6 * 32, **shape)
    encoders = (Clip("conditioner.embedders.0.model.", 64, 3, 64),)
    return Layout((64, 128, 128), (0, 1, 0), 1, 64, encoders, told=64 + 5 * 32, **shape)


def tensors(shape: Layout) -> Iterator[Tensor]:
    """All tensors of a checkpoint."""
    yield from _unet(shape)
    yield from _vae(shape)
    for clip in shape.encoders:
        yield from (_clip(clip) if clip.projection is None else _open_clip(clip, clip.projection))


def write(path: Path, shape: Layout, metadata: dict[str, str] | None = None, half: bool = True, seed: int = 11) -> int:
    """Write a checkpoint of random values as safetensors, in float16 or float32; returns the number of values."""
    listed = list(tensors(shape))
    width, kind = (2, "F16") if half else (4, "F32")
    header: dict[str, object] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for tensor in listed:
        size = width * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    values = np.random.default_rng(seed).standard_normal(min(BLOCK, end // width), dtype=np.float32)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for number, tensor in enumerate(listed):
            _stream(file, tensor, values, number, np.float16 if half else np.float32)
    return end // width


def _stream(file: BinaryIO, tensor: Tensor, values: np.ndarray, number: int, kind: Any) -> None:
    left, start = math.prod(tensor.shape), number * 7919 % len(values)
    while left:
        part = values[start:start + left]
        file.write((tensor.mean + tensor.spread * part).astype(kind).tobytes())
        left, start = left - len(part), 0


def _layer(name: str, *shape: int, bias: bool = True) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", shape, 0.7 / max(1, math.prod(shape[1:])) ** 0.5)
    if bias:
        yield Tensor(f"{name}.bias", shape[:1], 0.01)


def _norm(name: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (width,), 0.05, 1.0)
    yield Tensor(f"{name}.bias", (width,), 0.05)


def _residual(name: str, before: int, after: int, times: int | None) -> Iterator[Tensor]:
    """Of the UNet where `times` is the width of the embedded time; else of the VAE."""
    names = ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "skip_connection") if times else (
        "norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    yield from _norm(f"{name}.{names[0]}", before)
    yield from _layer(f"{name}.{names[1]}", after, before, 3, 3)
    if times:
        yield from _layer(f"{name}.emb_layers.1", after, times)
    yield from _norm(f"{name}.{names[2]}", after)
    yield from _layer(f"{name}.{names[3]}", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.{names[4]}", after, before, 1, 1)


def _transformer(name: str, width: int, depth: int, shape: Layout) -> Iterator[Tensor]:
    side = () if shape.linear else (1, 1)
    yield from _norm(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, *side)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, context in (("attn1", width), ("attn2", shape.context)):
            for part, before in (("to_q", width), ("to_k", context), ("to_v", context)):
                yield from _layer(f"{block}.{attention}.{part}", width, before, bias=False)
            yield from _layer(f"{block}.{attention}.to_out.0", width, width)
        for norm in (1, 2, 3):
            yield from _norm(f"{block}.norm{norm}", width)
        yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _layer(f"{block}.ff.net.2", width, 4 * width)
    yield from _layer(f"{name}.proj_out", width, width, *side)


def _unet(shape: Layout) -> Iterator[Tensor]:
    top, times = "model.diffusion_model", 4 * shape.channels[0]
    yield from _layer(f"{top}.time_embed.0", times, shape.channels[0])
    yield from _layer(f"{top}.time_embed.2", times, times)
    if shape.told is not None:
        yield from _layer(f"{top}.label_emb.0.0", times, shape.told)
        yield from _layer(f"{top}.label_emb.0.2", times, times)
    yield from _layer(f"{top}.input_blocks.0.0", shape.channels[0], shape.inputs, 3, 3)
    skips, width, number = [shape.channels[0]], shape.channels[0], 1
    for level, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True)):
        for _ in range(shape.blocks):
            yield from _residual(f"{top}.input_blocks.{number}.0", width, channels, times)
            if depth:
                yield from _transformer(f"{top}.input_blocks.{number}.1", channels, depth, shape)
            width, number = channels, number + 1
            skips.append(width)
        if level < len(shape.channels) - 1:
            yield from _layer(f"{top}.input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    yield from _residual(f"{top}.middle_block.0", width, width, times)
    yield from _transformer(f"{top}.middle_block.1", width, shape.middle, shape)
    yield from _residual(f"{top}.middle_block.2", width, width, times)
    yield from _upwards(shape, skips, width)
    yield from _norm(f"{top}.out.0", shape.channels[0])
    yield from _layer(f"{top}.out.2", 4, shape.channels[0], 3, 3)


def _upwards(shape: Layout, skips: list[int], width: int) -> Iterator[Tensor]:
    number, times = 0, 4 * shape.channels[0]
    for level in reversed(range(len(shape.channels))):
        channels, depth = shape.channels[level], shape.depths[level]
        for position in range(shape.blocks + 1):
            here = f"model.diffusion_model.output_blocks.{number}"
            yield from _residual(f"{here}.0", width + skips.pop(), channels, times)
            width, number = channels, number + 1
            if depth:
                yield from _transformer(f"{here}.1", width, depth, shape)
            if level and position == shape.blocks:
                yield from _layer(f"{here}.{2 if depth else 1}.conv", width, width, 3, 3)


def _vae(shape: Layout) -> Iterator[Tensor]:
    top, width = "first_stage_model", shape.vae[0]
    yield from _layer(f"{top}.encoder.conv_in", width, 3, 3, 3)
    for level, channels in enumerate(shape.vae):
        for block in range(shape.vae_blocks):
            yield from _residual(f"{top}.encoder.down.{level}.block.{block}", width, channels, None)
            width = channels
        if level < len(shape.vae) - 1:
            yield from _layer(f"{top}.encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_ends(f"{top}.encoder", width, 8, width)
    yield from _layer(f"{top}.decoder.conv_in", width, 4, 3, 3)
    for level in reversed(range(len(shape.vae))):
        for block in range(shape.vae_blocks + 1):
            yield from _residual(f"{top}.decoder.up.{level}.block.{block}", width, shape.vae[level], None)
            width = shape.vae[level]
        if level:
            yield from _layer(f"{top}.decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _vae_ends(f"{top}.decoder", shape.vae[-1], 3, width)
    yield from _layer(f"{top}.quant_conv", 8, 8, 1, 1)
    yield from _layer(f"{top}.post_quant_conv", 4, 4, 1, 1)


def _vae_ends(top: str, middle: int, out: int, last: int) -> Iterator[Tensor]:
    yield from _residual(f"{top}.mid.block_1", middle, middle, None)
    yield from _norm(f"{top}.mid.attn_1.norm", middle)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{top}.mid.attn_1.{part}", middle, middle, 1, 1)
    yield from _residual(f"{top}.mid.block_2", middle, middle, None)
    yield from _norm(f"{top}.norm_out", last)
    yield from _layer(f"{top}.conv_out", out, last, 3, 3)


def _clip(clip: Clip) -> Iterator[Tensor]:
    yield Tensor(f"{clip.prefix}embeddings.token_embedding.weight", (VOCABULARY, clip.width), 0.05)
    yield Tensor(f"{clip.prefix}embeddings.position_embedding.weight", (TOKENS, clip.width), 0.05)
    for number in range(clip.layers):
        here = f"{clip.prefix}encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _layer(f"{here}.self_attn.{part}", clip.width, clip.width)
        yield from _norm(f"{here}.layer_norm1", clip.width)
        yield from _norm(f"{here}.layer_norm2", clip.width)
        yield from _layer(f"{here}.mlp.fc1", 4 * clip.width, clip.width)
        yield from _layer(f"{here}.mlp.fc2", clip.width, 4 * clip.width)
    yield from _norm(f"{clip.prefix}final_layer_norm", clip.width)


def _open_clip(clip: Clip, projection: int) -> Iterator[Tensor]:
    width = clip.width
    yield Tensor(f"{clip.prefix}token_embedding.weight", (VOCABULARY, width), 0.05)
    yield Tensor(f"{clip.prefix}positional_embedding", (TOKENS, width), 0.05)
    yield Tensor(f"{clip.prefix}text_projection", (width, projection), 0.7 / width ** 0.5)
    yield Tensor(f"{clip.prefix}logit_scale", (), 0.0, 4.6)
    for number in range(clip.layers):
        here = f"{clip.prefix}transformer.resblocks.{number}"
        yield Tensor(f"{here}.attn.in_proj_weight", (3 * width, width), 0.7 / width ** 0.5)
        yield Tensor(f"{here}.attn.in_proj_bias", (3 * width,), 0.01)
        yield from _layer(f"{here}.attn.out_proj", width, width)
        yield from _norm(f"{here}.ln_1", width)
        yield from _norm(f"{here}.ln_2", width)
        yield from _layer(f"{here}.mlp.c_fc", 4 * width, width)
        yield from _layer(f"{here}.mlp.c_proj", width, 4 * width)
    yield from _norm(f"{clip.prefix}ln_final", width)
