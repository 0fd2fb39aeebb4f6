"""Pictures for these tests: good ones of every kind, and bad ones."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

BODY_LIMIT, PICTURE_LIMIT = 600_000, 300_000
"""Bytes that the server of these tests takes."""
SIZE = (64, 48)


def photo(size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth colours that differ everywhere."""
    y, x = np.mgrid[:size[1], :size[0]]
    return Image.fromarray(np.stack((x * 255 // size[0], y * 255 // size[1], (x + y) % 256), axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def base64_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def decoded(raw: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image)


def header_only(width: int, height: int) -> bytes:
    """A PNG file that says it is so large, with kilobytes of data."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def turned() -> bytes:
    """A JPEG whose orientation says: turn by 90° clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo((48, 64)), "JPEG", exif=exif, quality=95)


def gray16(size: tuple[int, int] = SIZE) -> bytes:
    """16 bits, from black at the left to white at the right."""
    return encoded(Image.fromarray(np.tile(np.linspace(0, 65535, size[0]).astype(np.uint16), (size[1], 1))))


def animated(kind: str = "GIF") -> bytes:
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


#: Name, file, status, code: what no endpoint takes as a picture.
BAD_FILES: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 400, "invalid_image"), ("text", b"hello", 400, "invalid_image"),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "invalid_image"),
    ("tiff", encoded(photo(), "TIFF"), 400, "invalid_image"),
    ("cut-png", encoded(photo())[:-40], 400, "invalid_image"),
    ("cut-jpeg", encoded(photo(), "JPEG")[:300], 400, "invalid_image"),
    ("bomb", header_only(30_000, 30_000), 413, "image_too_large"),
    ("wide", header_only(40_000, 10), 413, "image_too_large"),
    ("damaged", encoded(photo())[:60] + bytes(20) + encoded(photo())[80:], 400, "invalid_image"),
    ("heavy", encoded(Image.frombytes("RGB", (400, 400), np.random.default_rng(1).bytes(480_000))), 413,
     "image_too_large"),
]
#: Name, file, and what it is stored as: size, mode.
GOOD_FILES: list[tuple[str, bytes, tuple[int, int], str]] = [
    ("rgb", encoded(photo()), SIZE, "RGB"), ("jpeg", encoded(photo(), "JPEG"), SIZE, "RGB"),
    ("webp", encoded(photo(), "WEBP"), SIZE, "RGB"), ("bmp", encoded(photo(), "BMP"), SIZE, "RGB"),
    ("cmyk", encoded(photo().convert("CMYK"), "JPEG"), SIZE, "RGB"),
    ("gray", encoded(photo().convert("L")), SIZE, "RGB"),
    ("gray-alpha", encoded(photo().convert("LA")), SIZE, "RGBA"), ("bits", encoded(photo().convert("1")), SIZE, "RGB"),
    ("palette", encoded(photo().quantize(16)), SIZE, "RGB"), ("gray16", gray16(), SIZE, "RGB"),
    ("rgba", encoded(photo().convert("RGBA")), SIZE, "RGBA"), ("turned", turned(), SIZE, "RGB"),
    ("gif", animated("GIF"), SIZE, "RGB"), ("animated-webp", animated("WEBP"), SIZE, "RGB"),
    ("animated-png", animated("PNG"), SIZE, "RGB"), ("phone", animated("MPO"), SIZE, "RGB"),
    ("one-pixel", encoded(photo((1, 1))), (1, 1), "RGB"),
]
