"""PNG files: written whole or not at all, with their text chunks."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin


def write_png(path: Path, pixels: np.ndarray, text: dict[str, str]) -> None:
    """Write uint8 (height, width, 3) to `path` atomically: a reader sees the old file or the whole new one.

    Text goes to tEXt chunks, to iTXt where it is not Latin-1.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    temporary = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def base64_png(pixels: np.ndarray, size: tuple[int, int]) -> str:
    """A small picture enlarged to `size` (width, height) in pixels, as base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
