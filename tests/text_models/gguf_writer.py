"""Writes GGUF files of version 3, float32 only: just enough for models that are made for a test."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file. Arrays are in numpy's order: the last axis is GGUF's first. Whole numbers are stored as unsigned
    32-bit ones, in lists as signed ones."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    offset = 0
    for name, array in tensors.items():
        shape = tuple(reversed(array.shape))
        head += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)
        offset += _padded(array.size * 4)
    with path.open("wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for array in tensors.values():
            raw = np.ascontiguousarray(array, dtype=np.float32).tobytes()
            file.write(raw + b"\0" * (_padded(len(raw)) - len(raw)))


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = _I32 if type(value[0]) is int else _kind(value[0])
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_plain(item, kind) for item in value)
    return struct.pack("<I", _kind(value)) + _plain(value, _kind(value))


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _U32
    return _F32 if isinstance(value, float) else _STRING


def _plain(value: Any, kind: int) -> bytes:
    if kind == _STRING:
        return _string(value)
    return struct.pack({_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?"}[kind], value)
