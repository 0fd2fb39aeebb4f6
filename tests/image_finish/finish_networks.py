"""Tiny networks for the tests of what is done with finished pictures: real file formats, random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def rrdb_weights(scale: int = 4, features: int = 8, blocks: int = 1, growth: int = 32) -> dict[str, torch.Tensor]:
    """An ESRGAN (RRDBNet) of this size, under the key names of its first release, whose result is the picture enlarged
    by nearest neighbours plus a little of the blocks' work."""
    generator = torch.Generator().manual_seed(0)

    def conv(name: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
        weight = torch.randn((outputs, inputs, 3, 3), generator=generator) * 0.1
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}

    found = conv("model.0", 3, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for layer in range(5):
                inputs, outputs = features + layer * growth, growth if layer < 4 else features
                found |= conv(f"model.1.sub.{block}.RDB{dense}.conv{layer + 1}.0", inputs, outputs)
    found |= conv(f"model.1.sub.{blocks}", features, features)
    ups = {2: 1, 4: 2}[scale]
    for up in range(ups):
        found |= conv(f"model.{3 + 3 * up}", features, features)
    found |= conv(f"model.{2 + 3 * ups}", features, features)
    found |= conv(f"model.{4 + 3 * ups}", features, 3)
    return found


def compact_weights(scale: int = 2, features: int = 8, layers: int = 2) -> dict[str, torch.Tensor]:
    """Real-ESRGAN's small network (SRVGGNetCompact): convolutions and PReLU, added to the picture enlarged by nearest
    neighbours."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, torch.Tensor] = {}
    for layer in range(layers + 1):
        found[f"body.{2 * layer}.weight"] = torch.randn(
            (features, 3 if layer == 0 else features, 3, 3), generator=generator) * 0.05
        found[f"body.{2 * layer}.bias"] = torch.zeros(features)
        found[f"body.{2 * layer + 1}.weight"] = torch.full((features,), 0.2)
    last = 2 * (layers + 1)
    found[f"body.{last}.weight"] = torch.randn((3 * scale**2, features, 3, 3), generator=generator) * 0.05
    found[f"body.{last}.bias"] = torch.zeros(3 * scale**2)
    return found


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _tensor_type(name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dimensions)))


def write_matting(path: Path, side: int = 32, channels: int = 3) -> Path:
    """An ONNX file whose network calls the red of a picture its front: one convolution of 1 × 1 on (1, 3, side, side),
    then a sigmoid, so that red is 1 and blue 0. Written by hand: the package onnx is not needed for it.

    Numbers of the fields: onnx.proto of the ONNX project."""
    weights = np.zeros((1, channels, 1, 1), np.float32)
    weights[0, 0], weights[0, -1] = 20, -20
    tensor = b"".join(_field(1, size) for size in weights.shape) + _field(2, 1) + _field(8, "w") + _field(
        9, weights.tobytes())
    convolution = _field(1, "x") + _field(1, "w") + _field(2, "y") + _field(4, "Conv")
    sigmoid = _field(1, "y") + _field(2, "z") + _field(4, "Sigmoid")
    graph = (_field(1, convolution) + _field(1, sigmoid) + _field(2, "g") + _field(5, tensor)
             + _field(11, _tensor_type("x", (1, channels, side, side)))
             + _field(12, _tensor_type("z", (1, 1, side, side))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return path
