"""LoRA adapters in PEFT's layout (adapter_config.json, adapter_model.safetensors), added to the layers as they compute:
each request has its own weights, and the model's stay as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diptych.core.cards import AdapterFile
from diptych.core.errors import InvalidRequest

Weights = tuple[tuple[str, float], ...]
"""Adapters of a request and their strengths, sorted."""
_UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "bias")


class Adapters:
    """The adapters of one model. Belongs to the thread that computes.

    Raises:
        InvalidRequest: an adapter is damaged, of another kind than LoRA, or does not fit the model; says which.
    """

    def __init__(self, model: torch.nn.Module, files: tuple[AdapterFile, ...]) -> None:
        self._modules = dict(model.named_modules())
        self._active: dict[str, float] = {}
        self._parts: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        for file in files:
            for name, pair in _read(file).items():
                module, place = self._module(name, file.id)
                self._fits(module, pair, file.id, name)
                if place not in self._parts:
                    self._parts[place] = {}
                    module.register_forward_hook(self._hook(self._parts[place]))
                weight: torch.Tensor = module.weight  # type: ignore[assignment]
                self._parts[place][file.id] = (pair[0].to(weight), pair[1].to(weight))

    def use(self, weights: Weights) -> None:
        """From now on the model computes with these."""
        self._active = dict(weights)

    def _hook(self, parts: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Any:
        def add(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> torch.Tensor:
            for id, strength in self._active.items():
                if id in parts and strength:
                    down, up = parts[id]
                    made = made + strength * ((given[0] @ down.T) @ up.T)
            return made

        return add

    def _module(self, name: str, id: str) -> tuple[torch.nn.Module, str]:
        """The layer that an adapter calls `name`; the wrappers around a language model differ between versions."""
        for place in (name, f"model.{name}", name.removeprefix("model."),
                      name.replace("model.", "model.language_model.", 1),
                      name.replace("language_model.model.", "model.language_model.", 1)):
            found = self._modules.get(place)
            if isinstance(found, torch.nn.Linear):
                return found, place
        raise InvalidRequest(f"adapter {id!r} changes {name!r}, which is no linear layer of this model", param="model")

    def _fits(self, module: Any, pair: tuple[torch.Tensor, torch.Tensor], id: str, name: str) -> None:
        down, up = pair
        if (down.shape[1], up.shape[0], down.shape[0]) != (module.in_features, module.out_features, up.shape[1]):
            raise InvalidRequest(
                f"adapter {id!r} does not fit: {name!r} has {module.in_features} inputs and {module.out_features} "
                f"outputs, its matrices are {tuple(down.shape)} and {tuple(up.shape)}", param="model")


def _read(file: AdapterFile) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The two matrices of each layer, the second one scaled."""
    folder = Path(file.path)
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InvalidRequest(f"adapter {file.id!r} cannot be read: {type(error).__name__}", param="model") from error
    unknown = [name for name in _UNSUPPORTED if config.get(name) not in (None, False, {}, [], "none")]
    if config.get("peft_type", "LORA") != "LORA" or unknown:
        raise InvalidRequest(f"adapter {file.id!r} uses {', '.join(unknown) or config.get('peft_type')}, which is not "
                             "supported; plain LoRA is", param="model")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.removeprefix("base_model.model.").partition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            raise InvalidRequest(f"adapter {file.id!r} has {key!r}, which is not part of plain LoRA", param="model")
        pairs.setdefault(name, {})[kind[0]] = tensor
    broken = next((name for name, pair in pairs.items() if len(pair) != 2), None)
    if broken is not None:
        raise InvalidRequest(f"adapter {file.id!r} has only one of the two matrices of {broken!r}", param="model")
    return {name: (pair["A"], pair["B"] * scale) for name, pair in pairs.items()}
