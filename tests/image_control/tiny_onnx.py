"""Tiny ONNX models, written without the onnx package: the format is a protocol buffer."""

from __future__ import annotations

from pathlib import Path


def _varint(value: int) -> bytes:
    out = b""
    value &= 2**64 - 1
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value(name: str, shape: list[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1, side) if isinstance(side, int) else _field(2, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _ints(name: str, values: list[int]) -> bytes:
    return _field(5, _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, 7))


def _int(name: str, value: int) -> bytes:
    return _field(5, _field(1, name) + _field(3, value) + _field(20, 2))


def node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    return b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind) + b"".join(attributes)


def model(path: Path, nodes: list[bytes], outputs: dict[str, list[int | str]],
          size: tuple[int | str, int | str] = ("h", "w")) -> Path:
    """Write a model of one picture `x`, (1, 3, *size)."""
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, "tiny") + _field(11, _value("x", [1, 3, *size]))
    graph += b"".join(_field(12, _value(name, shape)) for name, shape in outputs.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_field(1, 8) + _field(8, _field(1, "") + _field(2, 13)) + _field(7, graph))
    return path


def mean_model(path: Path, size: tuple[int | str, int | str] = ("h", "w")) -> Path:
    """The mean of the three channels: a "depth" that is the brightness, a "segmentation" of one class."""
    return model(path, [node("ReduceMean", ["x"], "y", _ints("axes", [1]), _int("keepdims", 1))],
                 {"y": [1, 1, *size]}, size)


def centred_model(path: Path) -> Path:
    """How much brighter a pixel is than the picture's mean: numbers on both sides of 0, as logits are."""
    return model(path, [node("ReduceMean", ["x"], "m", _ints("axes", [1]), _int("keepdims", 1)),
                        node("ReduceMean", ["x"], "a", _ints("axes", [1, 2, 3]), _int("keepdims", 1)),
                        node("Sub", ["m", "a"], "y")], {"y": [1, 1, "h", "w"]})


def identity_model(path: Path) -> Path:
    """Each channel is a class: the brightest one wins."""
    return model(path, [node("Identity", ["x"], "y")], {"y": [1, 3, "h", "w"]})


def rows_model(path: Path) -> Path:
    """SimCC outputs of three "points", too few for a pose."""
    return model(path, [node("ReduceMean", ["x"], "y", _ints("axes", [2]), _int("keepdims", 0)),
                        node("ReduceMean", ["x"], "z", _ints("axes", [3]), _int("keepdims", 0))],
                 {"y": [1, 3, "w"], "z": [1, 3, "h"]})
