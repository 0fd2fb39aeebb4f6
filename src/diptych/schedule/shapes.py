"""What a model file says of its shapes, as far as memory depends on it. Reads headers and JSON files, never weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.errors import DiptychError
from diptych.library.checkpoint import FIRST_CONV, VAE_LEVEL
from diptych.library.gguf import GgufHeader, read_gguf
from diptych.library.safetensors_header import read_safetensors

CACHE_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5,
              "iq4_nl": 4.5}
"""Bits per value of a KV cache, scales of the blocks included."""


@dataclass(frozen=True)
class TextShape:
    """`cached` counts the values of the KV cache per token, over all layers; `vocabulary` and `width` (embedding and
    feed-forward) give the size of a batch's activations."""

    cached: int
    vocabulary: int
    width: int

    def cache_bytes(self, tokens: int, cache_type: str) -> int:
        return int(tokens * self.cached * CACHE_BITS[cache_type] / 8)


@dataclass(frozen=True)
class ImageShape:
    """`channels` of the UNet's first level, or of a transformer per latent, and of the VAE's levels at full and half
    resolution; `factor`: pixels per latent; `tiny`: the VAE is an AutoencoderTiny."""

    channels: int
    vae_channels: int
    factor: int
    tiny: bool


def text_shape(path: Path) -> TextShape | None:
    """Shape of a GGUF language model; None where its header does not tell, or cannot be read."""
    try:
        header = read_gguf(path)
    except (OSError, DiptychError):
        return None
    return shape_of_header(header)


def shape_of_header(header: GgufHeader) -> TextShape | None:
    """Layers × KV heads × (key length + value length), by the metadata keys of the GGUF specification. Models with a
    sliding window or a compressed cache need less: the full size is an upper bound."""
    name = header.architecture
    layers, embedding = header.number(f"{name}.block_count"), header.number(f"{name}.embedding_length")
    heads = _per_layer(header, f"{name}.attention.head_count", layers)
    if layers is None or embedding is None or not heads or max(heads) <= 0:
        return None
    key_values = _per_layer(header, f"{name}.attention.head_count_kv", layers) or heads
    length = embedding // max(heads)
    key = header.number(f"{name}.attention.key_length") or length
    value = header.number(f"{name}.attention.value_length") or length
    feed_forward = max(_per_layer(header, f"{name}.feed_forward_length", layers) or [4 * embedding])
    return TextShape(
        cached=sum(key_values) * (key + value), vocabulary=header.number(f"{name}.vocab_size") or 0,
        width=embedding + feed_forward)


def image_shape(place: Path) -> ImageShape | None:
    """Shape of a folder in the layout of diffusers, or of a checkpoint in one file; None where its JSON files, or its
    header, do not tell."""
    if place.is_file():
        return _checkpoint_shape(place)
    vae = _json(place / "vae" / "config.json")
    levels = _numbers(vae.get("block_out_channels") or vae.get("decoder_block_out_channels"))
    channels = _numbers(_json(place / "unet" / "config.json").get("block_out_channels"))
    first = channels[0] if channels else _transformer_channels(_json(place / "transformer" / "config.json"))
    if not levels or not first:
        return None
    return ImageShape(channels=first, vae_channels=levels[min(1, len(levels) - 1)],
                      factor=2 ** (len(levels) - 1), tiny=vae.get("_class_name") == "AutoencoderTiny")


def _transformer_channels(config: dict[str, Any]) -> int:
    """Values per latent that one layer of a diffusion transformer holds: its width, divided among the latents of a
    token; 0 where it does not tell."""
    width, patch = 1, config.get("patch_size")
    for key in ("num_attention_heads", "attention_head_dim"):
        value = config.get(key)
        width *= value if isinstance(value, int) and value > 0 else 0
    # FLUX and its like put two latents a side into a token before the transformer sees them.
    side = patch if isinstance(patch, int) and patch > 1 else 2 if "joint_attention_dim" in config else 1
    return -(-width // side ** 2)


def _checkpoint_shape(file: Path) -> ImageShape | None:
    try:
        shapes = read_safetensors(file).shapes
    except (OSError, DiptychError):
        return None
    first = shapes.get(FIRST_CONV)
    levels = [shape[0] for level in range(8) if (shape := shapes.get(VAE_LEVEL.format(level)))]
    if not first or not levels:
        return None
    return ImageShape(channels=first[0], vae_channels=levels[min(1, len(levels) - 1)], factor=2 ** (len(levels) - 1),
                      tiny=False)


def _per_layer(header: GgufHeader, key: str, layers: int | None) -> list[int]:
    """A number that is the same for all layers, or an array with one for each; empty when it is not there."""
    value = header.metadata.get(key)
    if isinstance(value, list):
        return [number for number in value if isinstance(number, int)]
    return [value] * (layers or 0) if isinstance(value, int) and not isinstance(value, bool) else []


def _numbers(value: Any) -> list[int]:
    """A list of positive whole numbers; empty where it is anything else."""
    fine = isinstance(value, list) and all(isinstance(one, int) and one > 0 for one in value)
    return value if fine else []


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
