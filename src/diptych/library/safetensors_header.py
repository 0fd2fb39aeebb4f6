"""Read the header of a safetensors file: tensor shapes and the size the file has to have. Never reads weights.

Format: eight bytes of length (little-endian), that much JSON, then the data (the safetensors specification).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.library.gguf import BadFile

MAX_HEADER = 100_000_000
"""Bytes; the specification's own limit."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}


@dataclass(frozen=True)
class SafetensorsHeader:
    """`shapes` by tensor name; `parameters` counts the values; `metadata` is the file's own text."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    parameters: int
    header_sha256: str


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Header of the safetensors file at `path`.

    Raises:
        BadFile: damaged, or not exactly as long as its header says.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise BadFile(f"not a safetensors file: it has only {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER, size - 8):
            raise BadFile(f"not a safetensors file, or cut short: its header claims {length} of {size} bytes")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadFile("damaged safetensors header: it is not JSON") from error
    if not isinstance(header, dict):
        raise BadFile("damaged safetensors header: it is not a JSON object")
    metadata = header.pop("__metadata__", {})
    shapes = {name: _shape(name, entry) for name, entry in header.items()}
    data = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + data != size:
        raise BadFile(f"the file is cut short or damaged: it has {size} bytes, its header asks for {8 + length + data}")
    texts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    digest = hashlib.sha256(start + raw).hexdigest()
    return SafetensorsHeader(shapes, texts, sum(math.prod(shape) for shape in shapes.values()), digest)


def _shape(name: str, entry: Any) -> tuple[int, ...]:
    """The checked shape of one tensor: its bytes must be what its shape and type need."""
    try:
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        bits = _BITS.get(entry["dtype"])
        whole = all(isinstance(value, int) and value >= 0 for value in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole or end < begin or (bits and math.prod(shape) * bits != (end - begin) * 8):
        raise BadFile(f"damaged safetensors header at tensor {name[:100]!r}")
    return shape
