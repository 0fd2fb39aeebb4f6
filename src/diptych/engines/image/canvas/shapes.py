"""Shapes as masks: how much of each pixel they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.core.canvas import AnyShape, Polygon, Rectangle
from diptych.core.errors import InvalidRequest
from diptych.core.svg_path import Segment, parse_path

SCANLINES = 4
"""Lines in each row of pixels on which coverage is measured; along a line it is exact."""
BAND = 64
"""Rows of pixels that are worked on at once."""
MAX_CROSSINGS = 20_000_000
"""Of all shapes of a mask with all scanlines: what a few seconds are enough for."""
MAX_PIECES = 64

Line = NDArray[np.float64]
"""Corners of a closed line: (points, 2), x and y in pixels."""


def with_shapes(mask: NDArray[np.float32], shapes: Sequence[AnyShape]) -> NDArray[np.float32]:
    """`mask` (height, width), 0 to 1, with each shape added to what is there, or taken away from it.

    Raises:
        InvalidRequest: they are too intricate.
    """
    height, width = mask.shape
    size = width, height
    left = MAX_CROSSINGS
    for index, shape in enumerate(shapes):
        lines = outline(shape, size)
        left -= _crossings(lines, height)
        if left < 0:
            raise InvalidRequest(
                f"mask.shapes[{index}] is too intricate for a picture of {width}x{height} pixels; send the mask as a "
                "picture", param=f"mask.shapes[{index}]")
        covered = coverage(lines, size, even_odd=getattr(shape, "fill_rule", "nonzero") == "evenodd")
        mask = np.minimum(mask, 1 - covered) if shape.erase else np.maximum(mask, covered)
    return mask


def outline(shape: AnyShape, size: tuple[int, int]) -> list[Line]:
    """The closed lines of a shape, in pixels of a picture of `size` (width, height)."""
    scale = np.array(size if shape.units == "fraction" else (1, 1), np.float64)
    if isinstance(shape, Rectangle):
        x, y, right, bottom = shape.x, shape.y, shape.x + shape.width, shape.y + shape.height
        return [np.array([(x, y), (right, y), (right, bottom), (x, bottom)]) * scale]
    if isinstance(shape, Polygon):
        return [np.array(shape.points) * scale]
    return [_flattened(subpath, scale) for subpath in parse_path(shape.d)]


def _flattened(subpath: list[Segment], scale: NDArray[np.float64]) -> Line:
    """Short lines in place of curves: so many that none is off by more than a fraction of a pixel."""
    parts = [np.array([(subpath[0][0].real, subpath[0][0].imag)]) * scale]
    for segment in subpath:
        points = np.array([(point.real, point.imag) for point in segment]) * scale
        if len(points) == 2:
            parts.append(points[1:])
            continue
        length = float(np.hypot(*np.diff(points, axis=0).T).sum())
        t = np.linspace(0, 1, min(MAX_PIECES, 2 + math.isqrt(int(min(length, 1e6)) * 4)) + 1)[1:, None]
        a, b, c, d = points
        parts.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)
    return np.concatenate(parts)


def coverage(lines: Sequence[Line], size: tuple[int, int], *, even_odd: bool = False) -> NDArray[np.float32]:
    """How much of each pixel lies inside of closed lines: float32 (height, width), 0 to 1."""
    width, height = size
    covered = np.empty((height, width), np.float32)
    starts, ends = _edges(lines)
    upwards = starts[:, 1] > ends[:, 1]
    low, high = np.where(upwards[:, None], ends, starts), np.where(upwards[:, None], starts, ends)
    winding = np.where(upwards, -1, 1)
    for first in range(0, height, BAND):
        last = min(first + BAND, height)
        total = np.zeros((last - first, width + 2), np.float64)
        _add_band(total, (low, high, winding), (first * SCANLINES, last * SCANLINES), even_odd)
        covered[first:last] = np.clip(np.cumsum(total, axis=1)[:, :width] / SCANLINES, 0, 1)
    return covered


def _add_band(
    total: NDArray[np.float64], edges: tuple[Line, Line, NDArray[np.int64]], band: tuple[int, int], even_odd: bool,
) -> None:
    """Add what is inside on the scanlines of `band` (first, last) to its rows in `total`, as differences along each
    row."""
    low, high, winding = edges
    begin = np.clip(np.ceil(low[:, 1] * SCANLINES - 0.5), *band).astype(np.int64)
    end = np.clip(np.ceil(high[:, 1] * SCANLINES - 0.5), *band).astype(np.int64)
    counts = end - begin
    if not counts.any():
        return
    edge = np.repeat(np.arange(len(low)), counts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + begin[edge]
    share = ((line + 0.5) / SCANLINES - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
    x = np.clip(low[edge, 0] + share * (high[edge, 0] - low[edge, 0]), 0, total.shape[1] - 2)
    order = np.lexsort((x, line))
    line, x = line[order], x[order]
    # All lines are closed, so the windings of each scanline come back to 0 and one sum goes through all of them.
    around = np.cumsum(winding[edge][order])
    inside = around % 2 != 0 if even_odd else around != 0
    before = np.concatenate(([False], inside[:-1]))
    sign = before.astype(np.float64) - inside.astype(np.float64)  # -1 where the inside begins, 1 where it ends
    row, column = (line - band[0]) // SCANLINES, np.floor(x).astype(np.int64)
    part = x - column
    # An end at x covers all pixels to its left, and `part` of its own; so written as differences:
    np.add.at(total, (row, 0), sign)
    np.add.at(total, (row, column), sign * (part - 1))
    np.add.at(total, (row, column + 1), -sign * part)


def _edges(lines: Sequence[Line]) -> tuple[Line, Line]:
    starts = np.concatenate(lines)
    ends = np.concatenate([np.roll(line, -1, axis=0) for line in lines])
    return starts, ends


def _crossings(lines: Sequence[Line], height: int) -> int:
    starts, ends = _edges(lines)
    spans = np.abs(np.clip(starts[:, 1], 0, height) - np.clip(ends[:, 1], 0, height))
    return int(spans.sum() * SCANLINES) + len(starts)
