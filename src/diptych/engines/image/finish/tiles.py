"""A picture through a network in tiles, so that memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]
"""A tile, float32 (height, width, 3) from 0 to 1, to one that is `scale` times as large a side."""
Tell = Callable[[float], None]
"""Takes the share of the work that is done; may raise to end it."""
TILE = 160
"""Pixels a side of what the network sees at once."""
OVERLAP = 16
"""Pixels that two tiles share. The outer half of a tile's share is context only; over the inner half one fades into the
next. So a network whose result depends on 8 pixels around is met exactly."""


def in_tiles(
    pixels: np.ndarray, scale: int, compute: Compute, tell: Tell, *, tile: int = TILE, overlap: int = OVERLAP,
) -> np.ndarray:
    """uint8 (height, width, 3) to uint8 (height · scale, width · scale, 3).

    Only one row of tiles is held as floating-point numbers.
    """
    height, width = pixels.shape[:2]
    rows, columns = _spans(height, tile, overlap), _spans(width, tile, overlap)
    result = np.empty((height * scale, width * scale, 3), np.uint8)
    shared = overlap // 2 * scale
    for number, (top, bottom) in enumerate(rows):
        band = _band(pixels, (top, bottom), columns, scale, compute, overlap,
                     partial(tell_part, tell, number, len(rows)))
        start, end = _core(rows, number, overlap)
        band = band[(start - top) * scale:(end - top) * scale]
        if number:
            ramp = _ramp(shared)[:, None, None]
            old = result[start * scale:start * scale + shared]
            band[:shared] = old * (1 - ramp) + band[:shared] * ramp
        result[start * scale:end * scale] = band.round()
    return result


def tell_part(tell: Tell, number: int, count: int, share: float) -> None:
    """Tell of all the work that of part `number` of `count`, the share `share` is done."""
    tell((number + share) / count)


def _band(
    pixels: np.ndarray, rows: tuple[int, int], columns: list[tuple[int, int]], scale: int, compute: Compute,
    overlap: int, tell: Tell,
) -> np.ndarray:
    """One row of tiles, float32 from 0 to 255."""
    (top, bottom), width = rows, pixels.shape[1]
    band = np.empty(((bottom - top) * scale, width * scale, 3), np.float32)
    shared = overlap // 2 * scale
    for number, (left, right) in enumerate(columns):
        tell(number / len(columns))
        part = compute(pixels[top:bottom, left:right].astype(np.float32) / 255)
        start, end = _core(columns, number, overlap)
        part = part[:, (start - left) * scale:(end - left) * scale].clip(0, 1) * 255
        if number:
            ramp = _ramp(shared)[None, :, None]
            old = band[:, start * scale:start * scale + shared]
            part[:, :shared] = old * (1 - ramp) + part[:, :shared] * ramp
        band[:, start * scale:end * scale] = part
    tell(1.0)
    return band


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Tiles along one side, each `tile` long where the side is, neighbours sharing `overlap` and more."""
    if length <= tile:
        return [(0, length)]
    # Two tiles share context of half the overlap on both sides of the half that fades.
    count = -(-(length - 2 * overlap) // (tile - 2 * overlap))
    starts = [round(number * (length - tile) / (count - 1)) for number in range(count)]
    return [(start, start + tile) for start in starts]


def _core(spans: list[tuple[int, int]], number: int, overlap: int) -> tuple[int, int]:
    """The part of a tile that is used: without the context beside its neighbours."""
    start, end = spans[number]
    half = overlap // 2
    if number:
        start = spans[number - 1][1] - half - half
    if number + 1 < len(spans):
        end -= half
    return start, end


def _ramp(count: int) -> np.ndarray:
    return ((np.arange(count, dtype=np.float32) + 0.5) / max(1, count)).astype(np.float32)
