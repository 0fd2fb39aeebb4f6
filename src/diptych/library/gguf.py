"""Read the header of a GGUF file: its metadata and how large the whole file has to be. Never reads weights.

Format: the GGUF specification of the ggml project, versions 2 and 3, little-endian. Every length in the file is checked
against a bound and against the file's size before anything is allocated, since the file comes from outside.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from diptych.core.errors import InvalidRequest

MAGIC = b"GGUF"
MAX_KEYS = 10_000
MAX_TENSORS = 200_000
MAX_STRING = 8 * 1024 * 1024
"""Bytes; chat templates are some tens of thousands."""
MAX_DIMENSIONS = 8
KEPT_ARRAY = 64
"""Arrays longer than this (vocabularies, merges) are skipped over; of texts the first ones are kept apart."""
DEFAULT_ALIGNMENT = 32

CHUNK = 1 << 20

Value = int | float | bool | str | list[int | float | bool | str]

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}
# Tensor type: (values per block, bytes per block). A type that is not here leaves the file's size unchecked.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}


class BadFile(InvalidRequest):
    """A model file is damaged, cut short, or not what its name says."""

    code = "bad_model_file"


@dataclass(frozen=True)
class GgufHeader:
    """`metadata` without long arrays; `heads` has the first 64 texts of those (a vocabulary begins with its control
    tokens); `parameters` counts the weights; `header_sha256` is over the header's bytes."""

    version: int
    metadata: dict[str, Value]
    tensors: int
    parameters: int
    header_sha256: str
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        return self.text("general.architecture")

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained with."""
        return self.number(f"{self.architecture}.context_length")


def read_gguf(path: Path) -> GgufHeader:
    """Header of the GGUF file at `path`.

    Raises:
        BadFile: not GGUF, an unknown version, damaged, or shorter than its tensors need.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path.stat().st_size)
        magic = reader.take(4)
        if magic != MAGIC:
            raise BadFile(f"not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
        version = reader.number("<I")
        if version not in (2, 3):
            raise BadFile(f"GGUF version {version} is not supported, only 2 and 3 (little-endian) are")
        tensor_count = reader.count("tensors", MAX_TENSORS)
        key_count = reader.count("metadata keys", MAX_KEYS)
        metadata = dict(_pair(reader) for _ in range(key_count))
        tensors = [_tensor(reader) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        _check_size(reader, tensors, alignment)
        parameters = sum(tensor.values for tensor in tensors)
        return GgufHeader(version, metadata, tensor_count, parameters, reader.sha256(), reader.heads)


@dataclass(frozen=True)
class _Tensor:
    name: str
    values: int
    type: int
    offset: int

    @property
    def end(self) -> int:
        """Bytes from the start of the data section; the start alone where the type's size is not known."""
        per_block, block_bytes = _BLOCKS.get(self.type, (1, 0))
        return self.offset + -(-self.values // per_block) * block_bytes


class _Reader:
    """Reads a file forward in chunks, never past its end. Not a memory map: a file that is cut while it is read would
    kill the process."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._buffer, self._at, self._base = b"", 0, 0
        self.heads: dict[str, tuple[str, ...]] = {}

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, length: int) -> bytes:
        self._need(length)
        self._at += length
        return self._buffer[self._at - length:self._at]

    def number(self, format: str) -> int:
        (value,) = struct.unpack(format, self.take(struct.calcsize(format)))
        return int(value)

    def count(self, what: str, limit: int) -> int:
        value = self.number("<Q")
        if value > limit:
            raise BadFile(f"damaged header: it claims {value} {what}, more than {limit}")
        return value

    def string(self) -> str:
        return self.take(self.count("bytes in one text", MAX_STRING)).decode("utf-8", errors="replace")

    def skip(self, length: int) -> None:
        position = self.position + length
        if position > self.size:
            raise self._cut()
        self._file.seek(position)
        self._buffer, self._at, self._base = b"", 0, position

    def skip_strings(self, count: int) -> None:
        """Pass over `count` texts. The inner loop runs for every word of a vocabulary, so it only adds up lengths."""
        length_of = struct.Struct("<Q").unpack_from
        while count:
            self._need(8)
            buffer, at = self._buffer, self._at
            last = len(buffer) - 8
            while count and at <= last:
                after = at + 8 + length_of(buffer, at)[0]
                if after > len(buffer):
                    break
                at, count = after, count - 1
            self._at = at
            if count and at <= last:
                self.take(self.count("bytes in one text", MAX_STRING))
                count -= 1

    def sha256(self) -> str:
        """Over everything from the file's start to here."""
        digest, end = hashlib.sha256(), self.position
        self._file.seek(0)
        while end > 0 and (block := self._file.read(min(end, CHUNK))):
            digest.update(block)
            end -= len(block)
        return digest.hexdigest()

    def _need(self, length: int) -> None:
        """Have at least `length` bytes in the buffer."""
        rest = len(self._buffer) - self._at
        if length <= rest:
            return
        if self.position + length > self.size:
            raise self._cut()
        self._buffer, self._base = self._buffer[self._at:], self.position
        self._at = 0
        self._buffer += self._file.read(max(length - rest, CHUNK))
        if len(self._buffer) < length:
            raise BadFile("the file became shorter while it was read")

    def _cut(self) -> BadFile:
        return BadFile(f"the file is cut short: its header goes on past its end at {self.size} bytes")


def _pair(reader: _Reader) -> tuple[str, Value]:
    key = reader.string()
    return key, _value(reader, reader.number("<I"), key)


def _value(reader: _Reader, type: int, key: str) -> Value:
    if type != _ARRAY:
        return _single(reader, type, key)
    type, length = reader.number("<I"), reader.number("<Q")
    if length <= KEPT_ARRAY:
        return [_single(reader, type, key) for _ in range(length)]
    if type in _SCALARS:
        reader.skip(length * struct.calcsize(_SCALARS[type]))
    elif type == _STRING:
        if length * 8 > reader.size - reader.position:
            raise BadFile(f"the file is cut short: key {key[:40]!r} claims {length} texts")
        reader.heads[key] = tuple(reader.string() for _ in range(KEPT_ARRAY))
        reader.skip_strings(length - KEPT_ARRAY)
    else:
        raise BadFile(f"damaged header: key {key[:40]!r} is an array of the unknown type {type}")
    return []


def _single(reader: _Reader, type: int, key: str) -> int | float | bool | str:
    if type == _STRING:
        return reader.string()
    if type not in _SCALARS:  # arrays in arrays are in the specification, and in no file
        raise BadFile(f"damaged header: key {key[:40]!r} has the unknown type {type}")
    (scalar,) = struct.unpack(_SCALARS[type], reader.take(struct.calcsize(_SCALARS[type])))
    value: int | float | bool = scalar
    return value


def _tensor(reader: _Reader) -> _Tensor:
    name = reader.string()
    dimensions = reader.number("<I")
    if dimensions > MAX_DIMENSIONS:
        raise BadFile(f"damaged header: tensor {name[:40]!r} has {dimensions} dimensions")
    shape = [reader.number("<Q") for _ in range(dimensions)]
    return _Tensor(name, math.prod(shape), reader.number("<I"), reader.number("<Q"))


def _check_size(reader: _Reader, tensors: list[_Tensor], alignment: Value) -> None:
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise BadFile(f"damaged header: general.alignment is {alignment!r}")
    start = -(-reader.position // alignment) * alignment
    last = max(tensors, key=lambda tensor: tensor.end, default=None)
    if last is not None and start + last.end > reader.size:
        raise BadFile(
            f"the file is cut short: it has {reader.size} bytes, tensor {last.name[:40]!r} ends at {start + last.end}")
