"""Adapter files to deltas of a model's layers: LoRA, LoCon, LoHa, LoKr, DoRA and whole differences, with the names of
kohya's scripts, LyCORIS, diffusers and PEFT."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from diptych.core.errors import InvalidRequest
from diptych.engines.image.adapters.deltas import Decomposed, Delta, Hadamard, Kronecker, LowRank, Whole
from diptych.engines.image.adapters.names import Layer, Places, part_and_name

Tensors = dict[str, torch.Tensor]
Deltas = dict[str, dict[str, Delta]]
"""By part of the model ("unet", "text_encoder", "text_encoder_2") and path of the layer in it."""
_ROLES = (
    (r"\.lora_down\.weight", "down"), (r"\.lora_up\.weight", "up"), (r"\.lora_mid\.weight", "mid"),
    (r"\.lora_A(?:\.default)?\.weight", "down"), (r"\.lora_B(?:\.default)?\.weight", "up"),
    (r"\.lora(?:_linear_layer)?\.down\.weight", "down"), (r"\.lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"\.alpha", "alpha"), (r"\.dora_scale", "scales"),
    (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude"), (r"\.diff", "diff"), (r"\.diff_b", "bias"),
    (r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.default)?", ""),
)
_ROLE = tuple((re.compile(rf"(?P<place>.+?){pattern}$"), role) for pattern, role in _ROLES)
_PROCESSOR = re.compile(r"(?P<place>.+)\.processor\.(?P<layer>to_[qkv]|to_out)_lora\.(?P<role>down|up)\.weight$")
MAX_REMEMBERED = 5
METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Scales:
    """What a configuration beside the weights says about their scale, by part of the model ("": any)."""

    configs: dict[str, dict[str, Any]]

    def of(self, part: str, name: str, rank: int) -> float:
        """alpha over rank, 1 where nothing is said. Raises ValueError."""
        config = self.configs.get(part, self.configs.get("", {}))
        alpha = config.get("lora_alpha", config.get("alpha"))
        patterns = config.get("alpha_pattern") or {}
        for pattern, value in patterns.items():
            if re.fullmatch(rf"(?:.*\.)?{re.escape(pattern)}", name):
                alpha = value
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def read_deltas(path: Path, id: str, places: Places) -> Deltas:
    """The deltas of an adapter file, as tensors of the dtype and device of the layers they belong to.

    Raises:
        InvalidRequest: the file cannot be read, holds something that is not known, or does not fit the model; names the
            adapter and the tensor.
    """
    tensors, metadata = _tensors(path, id)
    try:
        scales = _scales(path, metadata)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"adapter {id!r}: its configuration cannot be read: {type(error).__name__}",
                             param="adapters", code="adapter_damaged") from error
    found: Deltas = {}
    for place, roles in _grouped(tensors, id).items():
        where = part_and_name(place)
        if where is None:
            raise _unknown(id, place)
        part, name = where
        layer = places.find(part, name)
        if layer is None:
            if places.needless(part, name):
                continue
            raise InvalidRequest(
                f"adapter {id!r} changes {place[:200]!r}, a layer that this model does not have: it was made for "
                "another family of models", param="adapters", code="adapter_misfit")
        try:
            found.setdefault(part, {})[layer[0]] = _delta(roles, layer[1], scales, part, name)
        except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
            shape = tuple(layer[1].weight.shape)
            raise InvalidRequest(
                f"adapter {id!r} does not fit this model at {place[:200]!r}, whose weight is {shape}: "
                f"{str(error)[:200]}", param="adapters", code="adapter_misfit") from error
    if not found:
        raise InvalidRequest(f"adapter {id!r} changes nothing of this model", param="adapters", code="adapter_misfit")
    return found


def _tensors(path: Path, id: str) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidRequest(f"adapter {id!r} cannot be read: {str(error).replace(str(path), path.name)[:200]}",
                             param="adapters", code="adapter_damaged") from error


def _scales(path: Path, metadata: Mapping[str, str]) -> Scales:
    """diffusers writes the configurations of all parts into the header, PEFT one into a file beside the weights."""
    config = path.with_name(PEFT_CONFIG)
    if path.stem == "adapter_model" and config.is_file():
        told = json.loads(config.read_text("utf-8"))
        return Scales({"": told} if isinstance(told, dict) else {})
    found: dict[str, dict[str, Any]] = {}
    told = json.loads(metadata.get(METADATA, "{}"))
    for key, value in told.items() if isinstance(told, dict) else ():
        part, _, name = str(key).partition(".")
        found.setdefault(part, {})[name] = value
    return Scales(found)


def _grouped(tensors: Tensors, id: str) -> dict[str, Tensors]:
    """Tensors of each layer by what they are for. Raises InvalidRequest for a key of an unknown kind."""
    groups: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        old = _PROCESSOR.match(key)
        if old is not None:
            groups.setdefault(f"{old['place']}.{old['layer']}", {})[old["role"]] = tensor
            continue
        for pattern, role in _ROLE:
            match = pattern.match(key)
            if match is not None:
                groups.setdefault(match["place"], {})[role or match[2]] = tensor
                break
        else:
            raise _unknown(id, key)
    return groups


def _unknown(id: str, key: str) -> InvalidRequest:
    return InvalidRequest(
        f"adapter {id!r} holds {key[:200]!r}, which is of no kind that is known; LoRA, LoCon, LoHa, LoKr and DoRA of "
        "Stable Diffusion models are", param="adapters", code="adapter_unknown")


def _delta(roles: Tensors, layer: Layer, scales: Scales, part: str, name: str) -> Delta:
    """Raises ValueError, RuntimeError, KeyError, IndexError where the tensors are not what the layer needs."""
    weight = layer.weight
    made = {role: tensor.to(weight.device, weight.dtype) for role, tensor in roles.items() if role != "alpha"}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in made.values()):
        raise ValueError("it has values that are not finite numbers")

    def scale(rank: int) -> float:
        return float(roles["alpha"]) / rank if "alpha" in roles else scales.of(part, name, rank)

    delta: Delta
    if "down" in made:
        delta = _low_rank(made, layer, scale(made["down"].shape[0]))
    elif "hada_w1_a" in made:
        rank = made["hada_w1_b"].shape[0]
        first, second = (_pair(made, f"hada_w{number}", f"hada_t{number}") for number in (1, 2))
        delta = Hadamard(first, second, weight.shape, scale(rank))
    elif "lokr_w1" in made or "lokr_w1_a" in made:
        first, second = _pair(made, "lokr_w1", ""), _pair(made, "lokr_w2", "lokr_t2")
        # The rank is that of the factors; two whole ones have none, and no scale.
        ranks = [made[key].shape[0] for key in ("lokr_w2_b", "lokr_w1_b") if key in made]
        told = scales.of(part, name, _kept_rank(scales, part)) if "alpha" not in roles else 1.0
        delta = Kronecker(first, second, weight.shape, scale(ranks[0]) if ranks else told)
    elif "diff" in made or "bias" in made:
        delta = Whole(made["diff"].view(weight.shape) if "diff" in made else None, made.get("bias"))
    else:
        raise ValueError(f"it has only {', '.join(sorted(roles))}")
    if isinstance(delta, Hadamard | Kronecker):
        delta.weight_change()  # raises where the factors do not fit
    if "magnitude" in made:
        return _decomposed(delta, made["magnitude"], weight, by_input=False)
    if "scales" in made:  # LyCORIS norms inputs by default, and writes (1, inputs, …) then
        scales_of = made["scales"]
        return _decomposed(delta, scales_of, weight, by_input=scales_of.ndim > 1 and scales_of.shape[0] == 1)
    return delta


def _kept_rank(scales: Scales, part: str) -> int:
    """The rank that a configuration tells; PEFT scales by it also where both factors are whole."""
    config = scales.configs.get(part, scales.configs.get("", {}))
    return int(config.get("r") or 1)


def _low_rank(made: Tensors, layer: Layer, scale: float) -> LowRank:
    down, up, mid = made["down"], made["up"], made.get("mid")
    if isinstance(layer, torch.nn.Conv2d):
        down, up = (one[:, :, None, None] if one.ndim == 2 else one for one in (down, up))
        inside = mid if mid is not None else down
        if up.shape[2:] != (1, 1) or inside.shape[2:] != layer.weight.shape[2:]:
            raise ValueError(f"its matrices are {tuple(down.shape)} and {tuple(up.shape)}")
    else:
        down, up = (one.flatten(1) for one in (down, up))
    fits = (up.shape[0], down.shape[1]) == layer.weight.shape[:2] and down.shape[0] == (
        up.shape[1] if mid is None else mid.shape[1])
    if not fits or (mid is not None and mid.shape[0] != up.shape[1]):
        raise ValueError(f"its matrices are {tuple(down.shape)} and {tuple(up.shape)}")
    return LowRank(down.contiguous(), up.contiguous(), mid, scale)


def _pair(made: Tensors, name: str, core: str) -> tuple[torch.Tensor, ...]:
    """A factor: whole, or two matrices, with a core between them."""
    if name in made:
        return (made[name],)
    pair = (made[f"{name}_a"], made[f"{name}_b"])
    return (*pair, made[core]) if core in made else pair


def _decomposed(delta: Delta, magnitude: torch.Tensor, weight: torch.Tensor, by_input: bool) -> Delta:
    if magnitude.numel() != weight.shape[int(by_input)]:
        raise ValueError(f"its magnitude is {tuple(magnitude.shape)}")
    return Decomposed(delta, magnitude, by_input)
