"""Adapter files with random weights, in the forms that trainers and libraries write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def attention_layers(module: torch.nn.Module, names: Iterable[str]) -> dict[str, torch.nn.Module]:
    """Linear layers of a module whose path ends so."""
    return {path: layer for path, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear) and path.endswith(tuple(f".{name}" for name in names))}


def convolutions(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, torch.nn.Conv2d)}


def pairs(layers: dict[str, torch.nn.Module], rank: int, seed: int, size: float) -> dict[str, tuple[Any, Any]]:
    """(down, up) of each layer; their product changes an output by about `size` times its input."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for path, layer in layers.items():
        shape: tuple[int, ...] = tuple(layer.weight.shape)  # type: ignore[arg-type]
        inputs = int(torch.tensor(shape[1:]).prod())
        down = torch.randn((rank, *shape[1:]), generator=generator) / inputs ** 0.5
        up = torch.randn((shape[0], rank, *([1, 1] if len(shape) == 4 else [])), generator=generator)
        found[path] = (down, up * size / rank ** 0.5)
    return found


def parts_of(unet: Any, text: Any, seed: int, size: float = 0.5, conv: bool = False) -> dict[str, dict[str, Any]]:
    """Random LoRA matrices of UNet and text encoder, by part."""
    layers = attention_layers(unet, ATTENTION)
    if conv:
        layers |= convolutions(unet)
    encoder = {path.removeprefix("text_model."): layer for path, layer in attention_layers(text, TEXT).items()}
    return {"unet": pairs(layers, 4, seed, size), "text_encoder": pairs(encoder, 3, seed + 1, size)}


def kohya(parts: dict[str, dict[str, Any]], alpha: float | None = 2.0) -> Tensors:
    made: Tensors = {}
    for part, start in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for path, (down, up) in parts.get(part, {}).items():
            name = start + path.replace(".", "_")
            made |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            if alpha is not None:
                made[f"{name}.alpha"] = torch.tensor(alpha)
    return made


def diffusers(parts: dict[str, dict[str, Any]]) -> Tensors:
    made: Tensors = {}
    for part, start in (("unet", "unet."), ("text_encoder", "text_encoder.text_model.")):
        for path, (down, up) in parts.get(part, {}).items():
            made |= {f"{start}{path}.lora_A.weight": down, f"{start}{path}.lora_B.weight": up}
    return made


def older(parts: dict[str, dict[str, Any]]) -> Tensors:
    """As diffusers wrote before it used PEFT: the UNet's in its attention processors."""
    made: Tensors = {}
    for path, pair in parts["unet"].items():
        attention, _, layer = path.removesuffix(".0").rpartition(".")
        made |= {f"unet.{attention}.processor.{layer}_lora.{name}.weight": tensor
                 for name, tensor in zip(("down", "up"), pair, strict=True)}
    for path, pair in parts["text_encoder"].items():
        made |= {f"text_encoder.text_model.{path}.lora_linear_layer.{name}.weight": tensor
                 for name, tensor in zip(("down", "up"), pair, strict=True)}
    return made


FORMS: dict[str, Callable[[dict[str, dict[str, Any]]], Tensors]] = {
    "kohya": kohya, "diffusers": diffusers, "older": older}


def write(folder: Path, name: str, tensors: Tensors, **metadata: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata or None)
    return path


def write_peft(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A folder as PEFT's `save_pretrained` makes it."""
    path = write(folder, "adapter_model", {f"base_model.model.{key}": tensor for key, tensor in tensors.items()})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return path
