"""What files call the layers of a model, and where these are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
Layer = torch.nn.Linear | torch.nn.Conv2d
_FLAT = (("lora_unet_", UNET), ("lora_te1_", TEXT), ("lora_te2_", TEXT_2), ("lora_te_", TEXT))
_DOTTED = (("unet.", UNET), ("diffusion_model.", UNET), ("text_encoder_2.", TEXT_2), ("text_encoder.", TEXT))
_UNET_TOPS = ("down_blocks.", "up_blocks.", "mid_block.", "conv_in", "conv_out", "time_embedding.", "add_embedding.",
              "input_blocks.", "output_blocks.", "middle_block.", "time_embed.", "label_emb.")
_TEXT_TOPS = ("text_model.", "encoder.layers.")
_LAYER = re.compile(r"^encoder[._]layers[._](\d+)[._]")
_RESIDUAL = (("in_layers.2", "conv1"), ("out_layers.3", "conv2"), ("emb_layers.1", "time_emb_proj"),
             ("skip_connection", "conv_shortcut"))
_ENDS = (("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"),
         ("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2"),
         ("input_blocks.0.0", "conv_in"), ("out.2", "conv_out"))


class Places:
    """The linear layers and convolutions of a model's parts, by every name that files know them under.

    Args:
        parts: "unet", "text_encoder" and, where there is one, "text_encoder_2".
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._layers: dict[str, dict[str, tuple[str, Layer]]] = {}
        self._depths: dict[str, int] = {}
        for part, module in parts.items():
            found = {name: (name, layer) for name, layer in module.named_modules()
                     if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))}
            if part == UNET:
                found |= {ours: found[theirs] for ours, theirs in _original_names(module) if theirs in found}
                found |= {name.removesuffix(".0"): entry for name, entry in found.items() if name.endswith(".to_out.0")}
            else:
                found = {name.removeprefix("text_model."): entry for name, entry in found.items()}
                self._depths[part] = module.config.num_hidden_layers
            self._layers[part] = found | {name.replace(".", "_"): entry for name, entry in found.items()}

    def find(self, part: str, name: str) -> tuple[str, Layer] | None:
        """The layer's path in its part, and the layer; None where there is none."""
        return self._layers.get(part, {}).get(_without_text_model(name))

    def needless(self, part: str, name: str) -> bool:
        """Whether a name is of a layer at the end of a text encoder that this model was loaded without, because it is
        never computed."""
        match = _LAYER.match(_without_text_model(name))
        return match is not None and part in self._depths and int(match[1]) >= self._depths[part]


def part_and_name(place: str) -> tuple[str, str] | None:
    """The part of a model and the name of a layer in it, as a file writes them; None where it is neither's."""
    place = place.removeprefix("base_model.model.")
    for start, part in (*_FLAT, *_DOTTED):
        if place.startswith(start):
            return part, place.removeprefix(start).removeprefix("base_model.model.")
    if place.startswith(_TEXT_TOPS):
        return TEXT, place
    return (UNET, place) if place.startswith(_UNET_TOPS) else None


def _without_text_model(name: str) -> str:
    return name.removeprefix("text_model.").removeprefix("text_model_")


def _original_names(unet: Any) -> Iterator[tuple[str, str]]:
    """(name in the original training code, name in diffusers) of all layers of a UNet."""
    yield from _ENDS
    inside = [name for name, _ in unet.named_modules()]
    for ours, theirs in _blocks(len(unet.config.block_out_channels), unet.config.layers_per_block):
        residual = ".resnets." in theirs
        for name in inside:
            if name == theirs:
                yield ours, name
            elif name.startswith(f"{theirs}."):
                rest = name.removeprefix(f"{theirs}.")
                original = next((old for old, new in _RESIDUAL if new == rest), None) if residual else rest
                if original:
                    yield f"{ours}.{original}", name


def _blocks(levels: int, layers: Any) -> Iterator[tuple[str, str]]:
    """(name in the original code, name in diffusers) of the blocks of a UNet."""
    each = [layers] * levels if isinstance(layers, int) else list(layers)
    number = 1
    for level in range(levels):
        for layer in range(each[level]):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}"
            yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}"
            number += 1
        yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
        number += 1
    for place, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{place}", f"mid_block.{name}"
    number = 0
    for level in range(levels):
        for layer in range(each[levels - 1 - level] + 1):
            yield f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}"
            yield f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{layer}"
            number += 1
        for place in (1, 2):
            yield f"output_blocks.{number - 1}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
