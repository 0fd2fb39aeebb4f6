"""Pictures that users send: decoded under limits, for the gateway and the engines. Needs Pillow, imported when used.

Nothing is unpacked before its size is known from the header: a small file may hold an enormous picture.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.core.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}
"""Pillow's name of each format that is read, and its media type."""
SEVERAL = "MPO"
"""Pillow's name of a JPEG file that holds more pictures than one, as phones and cameras write them."""
MAX_SIDE = 32_768
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<options>(?:;[^;,]*)*),", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True)
class ImageLimits:
    """Bytes of the file, and pixels of the picture."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 32 * 1024 * 1024


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `image` is RGB, or RGBA where the file has transparency, upright, without any metadata.

    `media_type` is that of the file's content, whatever its sender called it. `raw` is the file as it came.
    """

    image: Image.Image
    media_type: str
    raw: bytes


def picture_from_text(text: str, limits: ImageLimits, *, param: str) -> Picture:
    """A picture sent as base64 or as a `data:` URL.

    Raises:
        InvalidRequest: no base64 of a picture that is read here. TooLarge: over a limit.
    """
    return decode_picture(bytes_from_text(text, limits, param=param), limits, param=param)


def bytes_from_text(text: str, limits: ImageLimits, *, param: str) -> bytes:
    """The bytes of base64 or of a `data:` URL; standard or URL-safe letters, with or without padding.

    Raises:
        InvalidRequest: it is neither. TooLarge: they would be more than `limits.max_bytes`; nothing is decoded then.
    """
    start = 0
    if text[:5].lower() == "data:":
        head = _DATA_URL.match(text[:200])
        if head is None or "base64" not in head["options"].lower().split(";"):
            raise InvalidRequest(f"{param} is a data: URL that is not base64", param=param, code="invalid_image")
        start = head.end()
    if (len(text) - start) // 4 * 3 > limits.max_bytes + limits.max_bytes // 16:  # room for line breaks
        raise _too_many_bytes(param, limits)
    body = _SPACE.sub("", text[start:]).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{param} is no base64; send a picture's bytes as base64 or as a data: URL", param=param,
            code="invalid_image") from None
    if len(raw) > limits.max_bytes:
        raise _too_many_bytes(param, limits)
    return raw


def decode_picture(raw: bytes, limits: ImageLimits, *, param: str) -> Picture:
    """Decode a file. Of an animation the first picture is taken.

    Args:
        raw: PNG, JPEG, WebP, GIF or BMP.
        param: what the client calls the field, for the errors.

    Raises:
        InvalidRequest: another format, or damaged. TooLarge: too many bytes, pixels, or too long a side.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(raw) > limits.max_bytes:
        raise _too_many_bytes(param, limits)
    try:
        with Image.open(io.BytesIO(raw), formats=tuple(FORMATS)) as opened:
            _check_size(opened.size, limits, param)
            kind = FORMATS["JPEG" if opened.format == SEVERAL else str(opened.format)]
            opened.load()
            upright = _of_8_bits(ImageOps.exif_transpose(opened))
            transparent = upright.has_transparency_data
            image = upright.convert("RGBA" if transparent else "RGB")
    except (TooLarge, InvalidRequest):
        raise
    except Image.DecompressionBombError:
        raise TooLarge(
            f"{param} has more pixels than the {limits.max_pixels} that are allowed", param=param,
            code="image_too_large") from None
    except UnidentifiedImageError:
        raise InvalidRequest(
            f"{param} is no picture that can be read; send PNG, JPEG, WebP, GIF or BMP", param=param,
            code="invalid_image") from None
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise InvalidRequest(
            f"{param} is a damaged picture ({type(error).__name__})", param=param, code="invalid_image") from None
    image.info.clear()
    return Picture(image, kind, raw)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grays off at 255 instead of scaling them."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value / 257 + 0.5).convert("L")


def _check_size(size: tuple[int, int], limits: ImageLimits, param: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidRequest(f"{param} is {width}x{height} pixels", param=param, code="invalid_image")
    if width * height > limits.max_pixels or max(size) > MAX_SIDE:
        raise TooLarge(
            f"{param} is {width}x{height} pixels; at most {limits.max_pixels} in all and {MAX_SIDE} on one side are "
            "allowed", param=param, code="image_too_large")


def _too_many_bytes(param: str, limits: ImageLimits) -> TooLarge:
    return TooLarge(f"{param} is a file of more than {limits.max_bytes} bytes", param=param, code="image_too_large")
