"""Stable Diffusion XL and its refiner: two text encoders, or one, and a UNet that is told sizes beside the text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diptych.core.errors import InvalidRequest
from diptych.core.size_hints import SizeHints
from diptych.engines.image.checkpoint import Parts
from diptych.engines.image.checkpoint_text import TextEncoder
from diptych.engines.image.conditioning_xl import DoubleEncoder, InnerClipEncoder
from diptych.engines.image.folder import check_layout, load_tokenizer, load_weights, read_json
from diptych.engines.image.model import Contexts
from diptych.engines.image.sd1 import VAES, StableDiffusion1, load_parts

LAYOUT = {"unet": ("UNet2DConditionModel",), "text_encoder_2": ("CLIPTextModelWithProjection",), "vae": VAES}
BASE_NUMBERS, REFINER_NUMBERS = 6, 5


class StableDiffusionXL(StableDiffusion1):
    """See `ImageModel` for the members."""

    def __init__(self, unet: Any, vae: Any, encoder: DoubleEncoder, scheduler_config: Mapping[str, Any]) -> None:
        super().__init__(unet, vae, encoder, scheduler_config)
        if str(scheduler_config.get("_class_name")).startswith("EDM"):
            raise InvalidRequest("the model was trained on EDM's noise levels; only models with Stable Diffusion's can "
                                 "be used", param="model")
        pooled = encoder.pooled_width
        features = unet.config.addition_time_embed_dim or 0
        self._numbers: int = (unet.config.projection_class_embeddings_input_dim - pooled) // max(1, features)
        if self._numbers not in (BASE_NUMBERS, REFINER_NUMBERS):
            raise InvalidRequest("the model's UNet does not take what Stable Diffusion XL is told: a text embedding of "
                                 f"{pooled} values, and 6 numbers (the refiner 5)", param="model")

    @property
    def refiner(self) -> bool:
        return self._numbers == REFINER_NUMBERS

    def time_ids(self, contexts: Contexts, hints: SizeHints, width: int, height: int) -> torch.Tensor:
        """The numbers that the UNet is told, (1 + conditions, 6 or 5): for the negative condition, then for each
        positive one.

        Args:
            width, height: of the picture, in pixels.
        """
        if self.refiner:
            negative, positive = (hints.refiner_numbers(width, height, what) for what in (True, False))
        else:
            negative = positive = hints.numbers(width, height)
        numbers = [negative] + [positive] * len(contexts.positive)
        return torch.tensor(numbers, device=self.device, dtype=self.dtype)


def load_model(path: str, device: torch.device, dtype: torch.dtype) -> StableDiffusionXL:
    """Load a folder, or a checkpoint in one file.

    Raises:
        InvalidRequest: it is no such model with safetensors weights, and what is missing.
    """
    parts = load_parts(path, device, dtype, _load_folder)
    if dtype == torch.float16 and getattr(parts.vae.config, "force_upcast", False):
        parts.vae.to(torch.float32)  # its inner values go beyond those of float16
    encoders = [InnerClipEncoder(words.tokenizer, words.model, device) for words in parts.encoders]
    return StableDiffusionXL(parts.unet, parts.vae, DoubleEncoder(encoders, parts.zeros), parts.scheduler)


def _load_folder(folder: Path, dtype: torch.dtype) -> Parts:
    index = read_json(folder / "model_index.json")
    double = isinstance(index.get("text_encoder"), list) and index["text_encoder"][1] is not None
    layout = {**LAYOUT, "text_encoder": ("CLIPTextModel",)} if double else LAYOUT
    others = ("tokenizer", "tokenizer_2", "scheduler") if double else ("tokenizer_2", "scheduler")
    found = check_layout(folder, layout, others)
    vae_class = AutoencoderTiny if found["vae"] == "AutoencoderTiny" else AutoencoderKL
    unet = load_weights(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
    vae = load_weights(vae_class, folder / "vae", torch_dtype=dtype)
    encoders = [_words(folder, "_2", CLIPTextModelWithProjection, dtype)]
    if double:
        encoders.insert(0, _words(folder, "", CLIPTextModel, dtype))
    return Parts(unet, vae, encoders, read_json(folder / "scheduler" / "scheduler_config.json"),
                 zeros=index.get("force_zeros_for_empty_prompt", True) is not False)


def _words(folder: Path, number: str, kind: Any, dtype: torch.dtype) -> TextEncoder:
    model = load_weights(kind, folder / f"text_encoder{number}", dtype=dtype)
    return TextEncoder(load_tokenizer(folder / f"tokenizer{number}", model.config.vocab_size), model)
