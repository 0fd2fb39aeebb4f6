"""Sizes and places: how a picture gets the size that is painted, and which part of it is. Sizes are (width, height)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import InvalidRequest

MAX_SIDE = 4096
Array = TypeVar("Array", bound=NDArray[Any])
Size = tuple[int, int]
Wanted = tuple[int | None, int | None]
"""Width and height as asked; None where they were not."""
Box = tuple[int, int, int, int]
"""left, top, right, bottom."""
WIDEST = 4.0
"""No part that is painted on its own is more often as wide as high, or as high as wide."""


@dataclass(frozen=True)
class Fit:
    """How a picture gets another size: the part of it that is taken (left, top, right, bottom), the size that part
    gets, and the pixels that are added on each side (left, top, right, bottom), like those at the border."""

    box: tuple[float, float, float, float]
    size: Size
    added: Box = (0, 0, 0, 0)

    @classmethod
    def of(cls, source: Size, target: Size, mode: Literal["resize", "crop", "fill"]) -> Fit:
        """`resize` stretches, `crop` cuts off what is too much at two sides, `fill` draws the edges out instead."""
        width, height = source
        across, down = target[0] / width, target[1] / height
        if mode == "crop":
            part_width, part_height = target[0] / max(across, down), target[1] / max(across, down)
            left, top = (width - part_width) / 2, (height - part_height) / 2
            return cls((left, top, left + part_width, top + part_height), target)
        if mode == "fill":
            scale = min(across, down)
            inner = (min(target[0], max(1, round(width * scale))), min(target[1], max(1, round(height * scale))))
            left, top = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
            return cls((0, 0, width, height), inner,
                       (left, top, target[0] - inner[0] - left, target[1] - inner[1] - top))
        return cls((0, 0, width, height), target)

    def picture(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (height, width, 3), scaled with Lanczos' filter."""
        return extended(_scaled(Image.fromarray(pixels), self, Image.Resampling.LANCZOS), self.added)

    def mask(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (height, width)."""
        return extended(np.clip(_scaled(Image.fromarray(mask), self, Image.Resampling.BILINEAR), 0, 1), self.added)


def _scaled(image: Image.Image, fit: Fit, filter: Image.Resampling) -> NDArray[Any]:
    if image.size == fit.size and fit.box == (0, 0, *image.size):
        return np.asarray(image)
    return np.asarray(image.resize(fit.size, filter, box=fit.box))


def extended(array: Array, sides: Box) -> Array:
    """The array (height, width, …) with `sides` (left, top, right, bottom) more, like what is at its border."""
    left, top, right, bottom = sides
    if not any(sides):
        return array
    around = [(top, bottom), (left, right), *[(0, 0)] * (array.ndim - 2)]
    return cast(Array, np.pad(array, around, mode="edge"))


def whole_size(source: Size, wanted: Wanted, own: int, *, exact: bool) -> Size:
    """The size of a result that shows all of a picture.

    Args:
        source: of the picture, with what it is extended by.
        wanted: width and height as asked; one that is missing follows from the other, in the picture's shape.
        own: the side that the model was made for.
        exact: keep the picture's size, however far it is from `own`. Else one of more than twice or less than half as
            many pixels as the model was made for gets that many.

    Raises:
        InvalidRequest: a side would be too long.
    """
    width, height = wanted
    across, down = source
    if width is not None and height is not None:
        return width, height
    if width is not None:
        size = width, max(1, round(width * down / across))
    elif height is not None:
        size = max(1, round(height * across / down)), height
    elif exact or own**2 / 2 <= across * down <= own**2 * 2:
        size = source
    else:
        scale = own / math.sqrt(across * down)
        size = max(1, round(across * scale)), max(1, round(down * scale))
    if max(size) > MAX_SIDE:
        raise InvalidRequest(
            f"init_image would be painted at {size[0]}x{size[1]} pixels, at most {MAX_SIDE} on a side can be: give "
            "width and height", param="init_image")
    return size


def multiple_of(size: Size, multiple: int) -> Size:
    """The next larger size of whole multiples."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def region_of(
    mask: NDArray[np.float32], padding: int, wanted: Wanted, own: int, multiple: int,
) -> tuple[Box, Size]:
    """The part of a picture that is painted for its mask (not empty), and the size that it is painted at.

    The box around the mask is widened by `padding` pixels, then to the shape of the size, as far as the picture goes.
    Width and height that were not asked for make as many pixels as the model was made for, in the shape of the box.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right = max(0, int(columns[0]) - padding), min(width, int(columns[-1]) + 1 + padding)
    top, bottom = max(0, int(rows[0]) - padding), min(height, int(rows[-1]) + 1 + padding)
    shape = min(WIDEST, max(1 / WIDEST, (right - left) / (bottom - top)))
    size = _region_size(shape, wanted, own, multiple)
    ratio = size[0] / size[1]
    left, right = _widened(left, right, round((bottom - top) * ratio), width)
    top, bottom = _widened(top, bottom, round((right - left) / ratio), height)
    return (left, top, right, bottom), size


def _region_size(shape: float, wanted: Wanted, own: int, multiple: int) -> Size:
    width, height = wanted
    if width is None:
        width = _rounded(height * shape if height is not None else own * math.sqrt(shape), multiple)
    if height is None:
        height = _rounded(width / shape, multiple)
    return multiple_of((width, height), multiple)


def _rounded(length: float, multiple: int) -> int:
    return max(1, min(round(length / multiple), MAX_SIDE // multiple)) * multiple


def _widened(first: int, last: int, length: int, limit: int) -> tuple[int, int]:
    """A span that is at least `length` long, if there is room, to both sides alike."""
    length = min(max(length, last - first), limit)
    first = max(0, min(first - (length - (last - first)) // 2, limit - length))
    return first, first + length
