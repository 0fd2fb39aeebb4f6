"""Pictures that users send: limits hold before anything is unpacked, and damaged files give clear errors."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from diptych.core.errors import DiptychError, InvalidRequest, TooLarge
from diptych.core.pictures import ImageLimits, bytes_from_text, decode_picture, picture_from_text

LIMITS = ImageLimits(max_bytes=200_000, max_pixels=100_000)


def encoded(kind: str, size: tuple[int, int] = (20, 10), mode: str = "RGB", **options: Any) -> bytes:
    made = io.BytesIO()
    picture = Image.linear_gradient("L").resize(size).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    picture.save(made, kind, **options)
    return made.getvalue()


def png(width: int, height: int, data: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG by hand: 8-bit grey, with any header and any data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "mode", "result"), [
    ("PNG", "RGB", "RGB"), ("PNG", "RGBA", "RGBA"), ("PNG", "LA", "RGBA"), ("PNG", "L", "RGB"), ("PNG", "1", "RGB"),
    ("PNG", "P", "RGB"), ("PNG", "I;16", "RGB"), ("JPEG", "RGB", "RGB"), ("JPEG", "CMYK", "RGB"), ("JPEG", "L", "RGB"),
    ("WEBP", "RGBA", "RGBA"), ("GIF", "P", "RGB"), ("BMP", "RGB", "RGB"),
])
def test_formats(kind: str, mode: str, result: str) -> None:
    found = decode_picture(encoded(kind, mode=mode), LIMITS, param="image")
    assert (found.image.size, found.image.mode) == ((20, 10), result)
    assert found.media_type == {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif",
                                "BMP": "image/bmp"}[kind]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "DATA:text/html;charset=x;BASE64,", "data:;base64,"])
def test_text_forms(head: str) -> None:
    raw = encoded("PNG")
    plain = base64.b64encode(raw).decode()
    for body in (plain, plain.rstrip("="), base64.urlsafe_b64encode(raw).decode(), "\r\n".join(
            plain[at:at + 76] for at in range(0, len(plain), 76))):
        assert picture_from_text(head + body, LIMITS, param="image").raw == raw


@pytest.mark.parametrize("text", [
    "", "x", "!!!!", "data:image/png,abc", "data:image/png;base64", "data:", "http://127.0.0.1/x.png", "file:///etc/passwd",
    "iVBORw0KGgo=", "\ud800", "äöü=", "data:image/png;base64,%41",
])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        picture_from_text(text, LIMITS, param="mask")
    assert refused.value.param == "mask"


def test_orientation_is_applied_and_metadata_gone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    exif[0x010E] = "a secret place"
    found = decode_picture(encoded("JPEG", (40, 10), exif=exif), LIMITS, param="image").image
    assert found.size == (10, 40)
    assert not found.info
    assert not found.getexif()


@pytest.mark.parametrize("size", [(50_000, 50_000), (1, 32_769), (2**31 - 1, 2**31 - 1), (400, 251)])
def test_a_bomb_is_not_unpacked(size: tuple[int, int]) -> None:
    """Kilobytes that would become gigabytes: refused by their header, without the memory."""
    bomb = png(*size, data=zlib.compress(bytes(10_000_000), 9))
    assert len(bomb) < LIMITS.max_bytes
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="pixels"):
            decode_picture(bomb, LIMITS, param="image")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_in_the_text_of_a_picture() -> None:
    """100 MB of compressed comment in a picture of one pixel."""
    body = b"comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    text = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (600_000_000,) * 2)\n"
            "from diptych.core.pictures import ImageLimits, decode_picture\n"
            "from diptych.core.errors import DiptychError\n"
            "try:\n decode_picture(sys.stdin.buffer.read(), ImageLimits(), param='image'); print('read')\n"
            "except DiptychError as error: print(error.status)")
    done = subprocess.run([sys.executable, "-c", code], input=png(1, 1, zlib.compress(b"\0\0"), text),
                          capture_output=True, timeout=60, check=True)
    assert done.stdout.strip() in (b"400", b"413", b"read")


def test_bytes_are_counted_before_they_are_decoded() -> None:
    with pytest.raises(TooLarge):
        decode_picture(bytes(LIMITS.max_bytes + 1), LIMITS, param="image")
    text = "A" * 40_000_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            bytes_from_text(text, LIMITS, param="image")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", [
    b"", b"\x89PNG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0",
    b"II*\0\x08\0\0\0", encoded("TIFF"), encoded("PPM"), encoded("ICO"), png(0, 5), png(10, 10, b"no deflate"),
    png(10, 10, zlib.compress(b"short")), encoded("JPEG")[:200], encoded("PNG")[:-30],
])
def test_other_and_damaged_files(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_picture(raw, LIMITS, param="image")


def test_an_animation_gives_its_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    made = io.BytesIO()
    frames[0].save(made, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_picture(made.getvalue(), LIMITS, param="image").image.getpixel((0, 0)) == (255, 0, 0)


SEEDS = [encoded("PNG"), encoded("JPEG"), encoded("WEBP"), encoded("GIF", mode="P"), encoded("BMP"),
         encoded("PNG", mode="P"), encoded("PNG", pnginfo=PngImagePlugin.PngInfo())]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12),
       st.integers(0, 400))
def test_random_damage_gives_clear_errors(raw: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(raw)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        found = decode_picture(bytes(damaged[:len(damaged) - cut % 40]), LIMITS, param="image")
    except DiptychError as error:
        assert error.param == "image"
    else:
        assert found.image.width * found.image.height <= LIMITS.max_pixels
