"""ControlNets and T2I-Adapters from disk: folders in the layout of diffusers, and single safetensors files with the key
names of diffusers or of the original training code. Nothing is fetched, and nothing but safetensors is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from diptych.core.errors import InvalidRequest
from diptych.engines.image.folder import load_weights

Weights = Mapping[str, torch.Tensor]
LDM = "control_model."
FOLDS = {"full_adapter": 8, "full_adapter_xl": 16, "light_adapter": 8}
"""Pixels along a side that T2I-Adapters fold into channels."""
FAULTS = (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, RuntimeError, SafetensorError)
"""What the libraries raise on files that are not what they should be."""


def read_controlnet(path: Path, unet: Any, dtype: torch.dtype) -> Any:
    """A `ControlNetModel`; that of a single file has the shape of `unet`, for which it has to be made.

    Raises:
        InvalidRequest: it is none, or of another shape.
    """
    return _read(path, "ControlNet", lambda: (
        load_weights(ControlNetModel, path, torch_dtype=dtype) if path.is_dir()
        else _controlnet(load_file(path), unet, dtype)))


def read_t2i_adapter(path: Path, dtype: torch.dtype) -> Any:
    """A `T2IAdapter`. Raises InvalidRequest."""
    return _read(path, "T2I-Adapter", lambda: (
        load_weights(T2IAdapter, path, torch_dtype=dtype) if path.is_dir() else _t2i_adapter(load_file(path), dtype)))


def _read(path: Path, what: str, load: Any) -> Any:
    try:
        return load().eval().requires_grad_(False)
    except InvalidRequest:
        raise
    except FAULTS as error:
        reason = str(error).strip().replace(str(path), path.name).replace("\n\t", " ").split("\n")[0][:300]
        raise InvalidRequest(f"{what} {path.name!r} could not be loaded: {reason}", param="controls") from error


def _filled(module: Any, weights: Weights, dtype: torch.dtype) -> Any:
    """The module, which was made without memory, with exactly these weights."""
    module.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, strict=True, assign=True)
    return module


def _controlnet(weights: Weights, unet: Any, dtype: torch.dtype) -> Any:
    if not any(key.startswith("controlnet_cond_embedding.") for key in weights):
        weights = _renamed(weights)
    hints = [weights["controlnet_cond_embedding.conv_in.weight"]]
    while (key := f"controlnet_cond_embedding.blocks.{2 * len(hints) - 1}.weight") in weights:
        hints.append(weights[key])
    with init_empty_weights():
        network = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=tuple(len(hint) for hint in hints),
            load_weights_from_unet=False, conditioning_channels=hints[0].shape[1])
    return _filled(network, weights, dtype)


def _renamed(weights: Weights) -> Weights:
    """Keys of the original code as diffusers calls them."""
    own = {key.removeprefix(LDM): value for key, value in weights.items()
           if key.startswith((LDM, "input_", "middle_", "zero_convs.", "time_embed.", "label_emb."))}
    blocks = {int(match[1]) for key in own if (match := re.match(r"input_blocks\.(\d+)\.", key))}
    ends = [block for block in sorted(blocks) if f"input_blocks.{block}.0.op.weight" in own]
    # Of each resolution the residual blocks come first, then the convolution that halves it.
    layers = (ends[0] if ends else len(blocks)) - 1
    found: dict[str, torch.Tensor] = convert_controlnet_checkpoint(own, {"layers_per_block": layers})
    for number, name in ((0, "linear_1"), (2, "linear_2")):
        for kind in ("weight", "bias"):
            if (key := f"label_emb.0.{number}.{kind}") in own:
                found[f"add_embedding.{name}.{kind}"] = own[key]
    return found


def _t2i_adapter(weights: Weights, dtype: torch.dtype) -> Any:
    if not any(key.startswith("adapter.") for key in weights):
        weights = _nested(weights)
    light = "adapter.body.0.out_conv.weight" in weights
    blocks = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("adapter.body."))
    residuals = len({key.split(".")[4] for key in weights if key.startswith("adapter.body.0.resnets.")})
    if light:
        channels = [len(weights[f"adapter.body.{block}.out_conv.weight"]) for block in range(blocks - 1)]
        kind, inputs = "light_adapter", weights["adapter.body.0.in_conv.weight"].shape[1]
    else:
        channels = [len(weights[f"adapter.body.{block}.resnets.0.block1.weight"]) for block in range(blocks)]
        inputs = weights["adapter.conv_in.weight"].shape[1]
        # 16 × 16 pixels of one or three channels: no adapter for Stable Diffusion 1 has so many inputs.
        kind = "full_adapter_xl" if inputs in (256, 768) else "full_adapter"
    with init_empty_weights():
        adapter = T2IAdapter(in_channels=inputs // FOLDS[kind] ** 2, channels=channels, num_res_blocks=residuals,
                             downscale_factor=FOLDS[kind], adapter_type=kind)
    return _filled(adapter, weights, dtype)


def _nested(weights: Weights) -> Weights:
    """Keys of the original T2I-Adapters as diffusers calls them. There, the residual blocks of a full adapter are in
    one list, two of each resolution; those of a light one are called `body` inside of `body`."""
    if "conv_in.weight" not in weights:
        return {"adapter." + re.sub(r"^(body\.[0-9]+\.)body\.", r"\1resnets.", key): value
                for key, value in weights.items()}
    found = {}
    for key, value in weights.items():
        match = re.fullmatch(r"body\.(\d+)\.(block1|block2|in_conv)\.(weight|bias)", key)
        if match is None:
            found[f"adapter.{key}"] = value
        elif match[2] == "in_conv":
            found[f"adapter.body.{int(match[1]) // 2}.in_conv.{match[3]}"] = value
        else:
            block, residual = divmod(int(match[1]), 2)
            found[f"adapter.body.{block}.resnets.{residual}.{match[2]}.{match[3]}"] = value
    return found
