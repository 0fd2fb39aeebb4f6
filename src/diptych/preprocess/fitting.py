"""How a picture of one shape is put into another. Pictures are uint8 (height, width, 3); sizes are (width, height)."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from diptych.core.errors import InvalidRequest
from diptych.preprocess.edges import Pixels

Size = tuple[int, int]


MAX_PIXELS = 4096 * 4096
"""That a picture may have when it is worked on."""


def cut(picture: Pixels, target: Size) -> Pixels:
    """The largest part around the middle that has the shape of `target`."""
    height, width = picture.shape[:2]
    share = min(width / target[0], height / target[1])
    wide, high = max(1, round(target[0] * share)), max(1, round(target[1] * share))
    left, top = (width - wide) // 2, (height - high) // 2
    return picture[top:top + high, left:left + wide]


def inside(picture: Size, target: Size) -> Size:
    """The largest size of a picture's shape that `target` has room for."""
    shares = target[0] / picture[0], target[1] / picture[1]
    if shares[0] <= shares[1]:
        return target[0], max(1, round(picture[1] * shares[0]))
    return max(1, round(picture[0] * shares[1])), target[1]


def shorter_side(picture: Size, pixels: int) -> Size:
    """The size of a picture whose shorter side is `pixels`. Raises InvalidRequest when that would be too large."""
    share = pixels / min(picture)
    width, height = max(1, round(picture[0] * share)), max(1, round(picture[1] * share))
    if width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"processor_res is {pixels}, which makes {width}x{height} pixels of this picture; at most {MAX_PIXELS} are "
            "worked on", param="processor_res")
    return width, height


def scaled(picture: Pixels, size: Size, binary: bool = False) -> Pixels:
    """The picture at another size (Lanczos). Of a `binary` one thin lines stay, and both values."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    if not binary:
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)
    if size[0] >= width and size[1] >= height:
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    covered = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    # A line one pixel wide covers `width ratio` of a larger pixel: half of that is enough to be seen.
    least = 127.5 * min(1.0, size[0] / width, size[1] / height)
    return np.asarray((covered > least) * np.uint8(255), dtype=np.uint8)


def bordered(picture: Pixels, target: Size) -> Pixels:
    """In the middle of `target`, with borders in the colour that its own border has most often (the median)."""
    height, width = picture.shape[:2]
    if (width, height) == target:
        return picture
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    canvas = np.empty((target[1], target[0], 3), np.uint8)
    canvas[:] = np.median(edge, axis=0).astype(np.uint8)
    top, left = (target[1] - height) // 2, (target[0] - width) // 2
    canvas[top:top + height, left:left + width] = picture
    return canvas
