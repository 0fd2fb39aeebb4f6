"""The text encoders in a Stable Diffusion checkpoint: OpenAI's CLIP (1 and XL) and OpenCLIP's (2 and XL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.engines.image.clip_words import END, clip_tokenizer

CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
REFINER_OPEN_CLIP = "conditioner.embedders.0.model."
WORDS = "token_embedding.weight"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and a transformer of transformers' own classes."""

    tokenizer: Any
    model: Any


def text_encoders(weights: Weights, dtype: torch.dtype) -> tuple[str, list[TextEncoder]]:
    """The kind of the checkpoint ("sd1", "sd2", "sdxl", "sdxl-refiner") and its text encoders.

    Raises:
        KeyError, ValueError, RuntimeError: weights are missing or of other shapes than their neighbours ask for.
    """
    if f"{XL_OPEN_CLIP}{WORDS}" in weights:
        return "sdxl", [_with_words(_clip(weights, XL_CLIP, dtype), END),
                        _with_words(_projected(weights, XL_OPEN_CLIP, dtype), "!")]
    if f"{REFINER_OPEN_CLIP}{WORDS}" in weights:
        return "sdxl-refiner", [_with_words(_projected(weights, REFINER_OPEN_CLIP, dtype), "!")]
    if f"{OPEN_CLIP}{WORDS}" in weights:
        return "sd2", [_with_words(_open_clip(weights, dtype), "!")]
    return "sd1", [_with_words(_clip(weights, CLIP, dtype), END)]


def filled(module: Any, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """The module with exactly these weights, copied in this dtype. Its own may be on the meta device."""
    module.load_state_dict({name: value.to(dtype, copy=True) for name, value in weights.items()}, assign=True)
    return module.eval()


def _with_words(model: Any, pad: str) -> TextEncoder:
    return TextEncoder(clip_tokenizer(pad, model.config.max_position_embeddings), model)


def _clip(weights: Weights, prefix: str, dtype: torch.dtype) -> Any:
    """OpenAI's encoder, whose keys are those of transformers."""
    own = {key.removeprefix(prefix): value for key, value in weights.items()
           if key.startswith(prefix) and not key.endswith("position_ids")}
    words = own[f"embeddings.{WORDS}"]
    layers = len({key.split(".")[2] for key in own if key.startswith("encoder.layers.")})
    config = _config(words.shape, own["embeddings.position_embedding.weight"].shape[0], layers,
                     own["encoder.layers.0.mlp.fc1.weight"].shape[0], "quick_gelu")
    with init_empty_weights():
        encoder = CLIPTextModel(config)
    return filled(encoder, own, dtype)


def _open_clip(weights: Weights, dtype: torch.dtype) -> Any:
    """OpenCLIP's encoder, of which Stable Diffusion 2 uses the last layer but one: the last is left out."""
    blocks = f"{OPEN_CLIP}transformer.resblocks."
    last = _open_layers(weights, OPEN_CLIP) - 1
    kept = {key: value for key, value in weights.items() if not key.startswith(f"{blocks}{last}.")}
    with init_empty_weights():
        encoder = CLIPTextModel(_open_config(weights, OPEN_CLIP, last))
    found = convert_open_clip_checkpoint(encoder, kept, prefix=OPEN_CLIP)
    return _open_filled(encoder, {key.removeprefix("text_model."): value for key, value in found.items()}, dtype)


def _projected(weights: Weights, prefix: str, dtype: torch.dtype) -> Any:
    """OpenCLIP's encoder with all its layers and the projection of its pooled output."""
    config = _open_config(weights, prefix, _open_layers(weights, prefix))
    config.projection_dim = weights[f"{prefix}text_projection"].shape[1]
    with init_empty_weights():
        encoder = CLIPTextModelWithProjection(config)
    return _open_filled(encoder, convert_open_clip_checkpoint(encoder, dict(weights), prefix=prefix), dtype)


def _open_filled(encoder: Any, found: Weights, dtype: torch.dtype) -> Any:
    """Without what OpenCLIP's has for its training alone."""
    wanted = encoder.state_dict()
    return filled(encoder, {key: value for key, value in found.items() if key in wanted}, dtype)


def _open_layers(weights: Weights, prefix: str) -> int:
    blocks = f"{prefix}transformer.resblocks."
    return len({key.removeprefix(blocks).split(".")[0] for key in weights if key.startswith(blocks)})


def _open_config(weights: Weights, prefix: str, layers: int) -> CLIPTextConfig:
    return _config(weights[f"{prefix}{WORDS}"].shape, weights[f"{prefix}positional_embedding"].shape[0], layers,
                   weights[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape[0], "gelu")


def _config(words: torch.Size, length: int, layers: int, intermediate: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words[0], hidden_size=words[1], projection_dim=words[1], intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=max(1, words[1] // 64), max_position_embeddings=length,
        hidden_act=activation, bos_token_id=words[0] - 2, eos_token_id=words[0] - 1, pad_token_id=1)
