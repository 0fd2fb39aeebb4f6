"""Masks: float32 (height, width), 1 where the picture is repainted, 0 where it stays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.canvas import Mask
from diptych.core.errors import InvalidRequest
from diptych.engines.image.canvas.shapes import with_shapes

Floats = NDArray[np.float32]
REACH = 2.5
"""Sigmas to each side after which the Gaussian is cut off, as in A1111's mask blur."""
STRIP = 32


def build_mask(options: Mask, picture: Image.Image | None, size: tuple[int, int]) -> Floats:
    """The mask of a picture of `size` (width, height).

    Args:
        picture: the mask's own picture, scaled where it has another size.

    Raises:
        InvalidRequest: it is empty: nothing would be repainted.
    """
    start = np.zeros(size[::-1], np.float32) if picture is None else picture_mask(picture, size)
    mask = with_shapes(start, options.shapes)
    if options.invert:
        mask = 1 - mask
    mask = blurred(feathered(grown(mask, options.grow), options.feather), options.blur)
    if not mask.any():
        raise InvalidRequest("mask is empty: nothing would be repainted", param="mask")
    return mask


def picture_mask(picture: Image.Image, size: tuple[int, int]) -> Floats:
    """White is 1; of a picture with transparent pixels, opaque is 1. Scaled to `size` (width, height)."""
    gray = picture.convert("L")
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        gray = alpha if alpha.getextrema()[0] < 255 else gray  # type: ignore[operator]
    if gray.size != size:
        gray = gray.resize(size, Image.Resampling.BILINEAR)
    mask: Floats = np.asarray(gray, np.float32) / np.float32(255)
    return mask


def grown(mask: Floats, pixels: int) -> Floats:
    """The mask where it is at least one half, grown by a disc of this radius; shrunk, where it is negative. With 0
    the mask stays as it is, with all its grays."""
    if pixels == 0:
        return mask
    inside = mask >= 0.5
    if pixels > 0:
        return (distance(inside, pixels) <= pixels).astype(np.float32)
    return (distance(~inside, -pixels) > -pixels).astype(np.float32)


def feathered(mask: Floats, pixels: int) -> Floats:
    """The mask with a straight ramp down around it, 0 beyond so many pixels."""
    if pixels == 0:
        return mask
    ramp: Floats = np.maximum(mask, 1 - np.minimum(distance(mask >= 0.5, pixels) / np.float32(pixels + 1), 1))
    return ramp


def distance(inside: NDArray[np.bool_], reach: int) -> Floats:
    """Pixels from each pixel to the nearest that is inside, between centres; `reach` + 1 for all that are farther.

    Exact: distances along rows first, then the nearest over the rows around (Saito and Toriwaki 1994).
    """
    height, width = inside.shape
    far = np.float32((reach + 1) ** 2)
    columns = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(inside, columns, -2 * width - reach), axis=1)
    right = np.minimum.accumulate(np.where(inside, columns, 3 * width + reach)[:, ::-1], axis=1)[:, ::-1]
    row = np.minimum(columns - left, right - columns).astype(np.float32) ** 2
    square = np.minimum(row, far)
    for strip in _strips(width):
        near, straight = square[:, strip].copy(), row[:, strip].copy()
        for step in range(1, min(reach, height - 1) + 1):
            np.minimum(near[step:], straight[:-step] + np.float32(step * step), out=near[step:])
            np.minimum(near[:-step], straight[step:] + np.float32(step * step), out=near[:-step])
        square[:, strip] = near
    nearest: Floats = np.sqrt(square)
    return nearest


def blurred(mask: Floats, sigma: float) -> Floats:
    """Softened by a Gaussian of `sigma` pixels that is cut off at 2.5 sigmas, as A1111's `mask_blur` is; beyond the
    border the mask goes on as at the border. Exactly 0 where no part of the mask is near."""
    radius = int(REACH * sigma + 0.5)
    if radius == 0:
        return mask
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    window = _around(mask, radius)
    part = mask[window]
    if not part.size:
        return mask
    for _ in range(2):  # along the columns, then, turned, along the rows
        padded = np.pad(part, [(radius, radius), (0, 0)], mode="edge")
        soft = np.zeros_like(part)
        for strip in _strips(part.shape[1]):
            narrow, total = padded[:, strip].copy(), soft[:, strip].copy()
            for index, weight in enumerate(kernel):
                total += weight * narrow[index:index + len(part)]
            soft[:, strip] = total
        part = np.ascontiguousarray(soft.T)
    result = np.zeros_like(mask)
    result[window] = np.clip(part, 0, 1)
    return result


def _strips(width: int) -> Iterator[slice]:
    """Columns that fit into a core's cache together: several times as fast as all at once."""
    return (slice(first, first + STRIP) for first in range(0, width, STRIP))


def _around(mask: Floats, reach: int) -> tuple[slice, slice]:
    """The part of the mask that is not 0, and `reach` pixels around it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (slice(max(0, int(rows[0]) - reach), int(rows[-1]) + 1 + reach),
            slice(max(0, int(columns[0]) - reach), int(columns[-1]) + 1 + reach))


def extension_mask(size: tuple[int, int], sides: tuple[int, int, int, int], overlap: int) -> Floats:
    """The mask of a picture of `size` (width, height) that is extended by `sides` (left, top, right, bottom): 1 in
    what is new, a straight ramp down over `overlap` pixels of the old beside it."""
    width, height = size
    left, top, right, bottom = sides
    return np.maximum(_ramp(width, left, right, overlap)[None, :], _ramp(height, top, bottom, overlap)[:, None])


def _ramp(length: int, before: int, after: int, overlap: int) -> Floats:
    """Along one side of the extended picture. The first old pixel has overlap / (overlap + 1)."""
    place = np.arange(before + length + after)
    depth = np.full(len(place), np.inf)
    if before:
        depth = np.minimum(depth, place - before + 1)
    if after:
        depth = np.minimum(depth, before + length - place)
    return np.clip(1 - depth / (overlap + 1), 0, 1).astype(np.float32)
