"""IP-Adapters (Ye et al. 2023, https://arxiv.org/abs/2308.06721): the UNet attends to pictures as it does to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention

from diptych.core.errors import InvalidRequest
from diptych.engines.image.control.image_prompt import ImagePrompt
from diptych.engines.image.control.reading import FAULTS
from diptych.engines.image.folder import load_weights

Weights = Mapping[str, torch.Tensor]
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)
"""Of the pixels that CLIP was trained on, in 0..1 (Radford et al. 2021)."""


class ImageEncoder:
    """CLIP's vision model, which IP-Adapters read pictures with."""

    def __init__(self, path: str, device: torch.device, dtype: torch.dtype) -> None:
        """Raises InvalidRequest."""
        # A model of vision is nothing that every start has to wait for.
        from transformers import CLIPVisionModelWithProjection

        folder = Path(path)
        try:
            model = load_weights(CLIPVisionModelWithProjection, folder, dtype=dtype)
        except FAULTS as error:
            raise InvalidRequest(f"image encoder {folder.name!r} could not be loaded: {_reason(error)}",
                                 param="controls") from error
        self._model = model.to(device).eval().requires_grad_(False)
        self._side: int = model.config.image_size
        self.width: int = model.config.projection_dim
        self.hidden: int = model.config.hidden_size
        self._device, self._dtype = device, dtype

    def __call__(self, picture: Image.Image, states: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of a picture and of none: (1, features), or with `states` the last layer's but one, (1, tokens,
        features)."""
        pixels = _seen(picture, self._side).to(self._device, self._dtype)
        if not states:
            found: torch.Tensor = self._model(pixels).image_embeds
            return found, torch.zeros_like(found)
        return tuple(self._model(values, output_hidden_states=True).hidden_states[-2]
                     for values in (pixels, torch.zeros_like(pixels)))


def _seen(picture: Image.Image, side: int) -> torch.Tensor:
    """(1, 3, side, side) of a picture as CLIP sees it: the middle square, by the mean and deviation of its training."""
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    rgb = Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    shorter = min(rgb.size)
    width, height = (side * one // shorter for one in rgb.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = rgb.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    values = np.asarray(square, dtype=np.float32) / 255.0
    return torch.from_numpy((values - MEAN) / DEVIATION).permute(2, 0, 1)[None]


class IPAdapter:
    """Its image projection, and the keys and values that it adds to every cross attention of the UNet."""

    def __init__(self, path: str, unet: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Raises InvalidRequest when the file is damaged, or was made for a UNet of another shape."""
        self._name = Path(path).name
        try:
            weights = load_file(path)
            own = {key.removeprefix("image_proj."): value for key, value in weights.items()
                   if key.startswith("image_proj.")}
            if "norm.weight" in own and "proj.weight" not in own and "proj.0.weight" in own and "latents" not in own:
                raise ValueError("FaceID adapters, which need a face recognition model, are not supported")
            self._projection = unet._convert_ip_adapter_image_proj_to_diffusers(own).to(device, dtype).eval()
            self.plain = "proj.weight" in own
            self._layers = _layers(weights, unet, device, dtype)
        except FAULTS as error:
            raise InvalidRequest(f"IP-Adapter {self._name!r} could not be loaded: {_reason(error)}",
                                 param="controls") from error
        width = next(iter(self._layers.values()))[0].shape[1]
        if width != unet.config.cross_attention_dim:
            raise InvalidRequest(
                f"IP-Adapter {self._name!r} does not fit this model: it was made for a text context of width {width}, "
                f"but the model has {unet.config.cross_attention_dim}", param="controls", code="family_mismatch")
        self.width: int = width

    def tokens(self, encoder: ImageEncoder, picture: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens (1, tokens, features) of a picture and of none. Raises InvalidRequest when the encoder is
        another than the adapter's."""
        try:
            shown, hidden = encoder(picture, states=not self.plain)
            return self._projection(shown), self._projection(hidden)
        except RuntimeError as error:
            raise InvalidRequest(
                f"IP-Adapter {self._name!r} needs another image encoder than the one given, whose features are "
                f"{encoder.width if self.plain else encoder.hidden} wide", param="controls") from error

    def layer(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of keys and of values, (inner, features), of the attention of this name."""
        return self._layers[name]


def _layers(weights: Weights, unet: Any, device: torch.device,
            dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values by the attention's name. In the file they have the odd numbers, in the order in which the UNet
    names its attentions; the even ones are self-attentions."""
    found = {}
    for number, name in enumerate(cross_attentions(unet)):
        pair = [weights[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] for kind in ("k", "v")]
        inner = unet.get_submodule(name).to_k.out_features
        if any(one.shape[0] != inner for one in pair):
            raise ValueError(f"layer {number} has {pair[0].shape[0]} channels, the model's {inner}")
        found[name] = (pair[0].to(device, dtype), pair[1].to(device, dtype))
    if f"ip_adapter.{2 * len(found) + 1}.to_k_ip.weight" in weights:
        raise ValueError(f"it has more layers than the {len(found)} of the model")
    return found


def cross_attentions(unet: Any) -> list[str]:
    """Names of the modules that attend to text, in the UNet's own order."""
    return [name.removesuffix(".processor") for name in unet.attn_processors
            if name.endswith("attn2.processor")]


class ImageAttention:
    """Attention processor that adds what the rows' image prompts say. Without any it does what was there before."""

    def __init__(self, before: Any, name: str, now: list[ImagePrompt]) -> None:
        self._before, self._name, self._now = before, name, now

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, temb: torch.Tensor | None = None,
                 **more: Any) -> torch.Tensor:
        """(rows, positions, channels) to the same."""
        if not self._now:
            found: torch.Tensor = self._before(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, **more)
            return found
        query = _heads(attn, attn.to_q(hidden_states))
        answer = _joined(scaled_dot_product_attention(
            query, _heads(attn, attn.to_k(encoder_hidden_states)), _heads(attn, attn.to_v(encoder_hidden_states)),
            attn_mask=attention_mask))
        for prompt in self._now:
            answer = self._added(attn, answer, query, prompt)
        answer = attn.to_out[1](attn.to_out[0](answer))
        if attn.residual_connection:
            answer = answer + hidden_states
        made: torch.Tensor = answer / attn.rescale_output_factor
        return made

    def _added(self, attn: Any, answer: torch.Tensor, query: torch.Tensor, prompt: ImagePrompt) -> torch.Tensor:
        """With the part of one adapter, in the rows that it counts in."""
        rows = prompt.scales.nonzero().flatten()
        if not len(rows):
            return answer
        keys, values = prompt.adapter.layer(self._name)
        tokens = prompt.tokens[rows]
        part = _joined(scaled_dot_product_attention(
            query[rows], _heads(attn, tokens @ keys.T), _heads(attn, tokens @ values.T)))
        return answer.index_add(0, rows, part * prompt.scales[rows, None, None].to(part.dtype))


def _heads(attn: Any, values: torch.Tensor) -> torch.Tensor:
    rows, length, inner = values.shape
    return values.view(rows, length, attn.heads, inner // attn.heads).transpose(1, 2)


def _joined(values: torch.Tensor) -> torch.Tensor:
    return values.transpose(1, 2).flatten(2)


class ImagePrompting:
    """Lets one UNet attend to pictures."""

    def __init__(self, unet: Any) -> None:
        self._now: list[ImagePrompt] = []
        names = set(cross_attentions(unet))
        unet.set_attn_processor({
            name: ImageAttention(processor, name.removesuffix(".processor"), self._now)
            if name.removesuffix(".processor") in names else processor
            for name, processor in unet.attn_processors.items()})

    @contextmanager
    def showing(self, prompts: Sequence[ImagePrompt]) -> Iterator[None]:
        """For the UNet's passes inside."""
        self._now[:] = prompts
        try:
            yield
        finally:
            self._now.clear()


def _reason(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
