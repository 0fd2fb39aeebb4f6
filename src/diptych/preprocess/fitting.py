"""How a picture of one shape is put into another. Pictures are uint8 (height, width, 3); sizes are (width, height)."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from PIL import Image

from diptych.preprocess.edges import Pixels

Size = tuple[int, int]
ResizeMode = Literal["resize", "crop", "fill"]


def scaled_size(picture: Size, target: Size, mode: ResizeMode) -> Size:
    """The size that a picture is scaled to before it is cut (`crop`) or bordered (`fill`) to `target`."""
    if mode == "resize":
        return target
    shares = target[0] / picture[0], target[1] / picture[1]
    share = max(shares) if mode == "crop" else min(shares)
    # Of both sides one is met exactly, whatever rounding does.
    width, height = max(1, round(picture[0] * share)), max(1, round(picture[1] * share))
    return (target[0], height) if share == shares[0] else (width, target[1])


def shorter_side(picture: Size, pixels: int) -> Size:
    """The size of a picture whose shorter side is `pixels`."""
    share = pixels / min(picture)
    return max(1, round(picture[0] * share)), max(1, round(picture[1] * share))


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


def placed(picture: Pixels, target: Size) -> Pixels:
    """Cut to `target` around the middle, and bordered where it is smaller, in the colour that its own border has most
    often (the median)."""
    height, width = picture.shape[:2]
    left, top = max(0, (width - target[0]) // 2), max(0, (height - target[1]) // 2)
    part = picture[top:top + target[1], left:left + target[0]]
    height, width = part.shape[:2]
    if (width, height) == target:
        return part
    edge = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    canvas = np.empty((target[1], target[0], 3), np.uint8)
    canvas[:] = np.median(edge, axis=0).astype(np.uint8)
    top, left = (target[1] - height) // 2, (target[0] - width) // 2
    canvas[top:top + height, left:left + width] = part
    return canvas
