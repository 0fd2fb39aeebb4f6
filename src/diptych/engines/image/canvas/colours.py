"""Colours: those of a hole's surroundings, and those of another picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]])
"""Linear sRGB to CIE XYZ, white D65 (IEC 61966-2-1)."""
_WHITE = _TO_XYZ.sum(axis=1)
_EDGE = 6 / 29
_LINEAR = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255])
"""sRGB of 8 bits to linear light."""


def filled(pixels: Bytes, mask: Floats) -> Bytes:
    """The picture (height, width, 3) with the colours around drawn smoothly over what is masked.

    Push and pull (Gortler et al. 1996): averages over ever larger squares of what is known, then back down, each pixel
    taking the finest that is known. Where all is masked it stays as it is.
    """
    known = 1 - np.clip(mask, 0, 1)
    if not known.any():
        return pixels
    found = _pulled(pixels.astype(np.float32) * known[..., None], known)
    blend = pixels * known[..., None] + found * (1 - known[..., None])
    result: Bytes = np.where(mask[..., None] > 0, np.rint(blend), pixels).astype(np.uint8)
    return result


def drawn_out(pixels: Bytes, sides: tuple[int, int, int, int]) -> Bytes:
    """The picture (height, width, 3) with `sides` (left, top, right, bottom) more pixels in the colours of its edges,
    smoothed along the edge the more the farther from it."""
    left, top, right, bottom = sides
    for axis, before, after in ((1, left, right), (0, top, bottom)):
        lines = np.moveaxis(pixels, axis, 0)
        parts = [_faded(lines[0], before)[::-1], lines, _faded(lines[-1], after)]
        pixels = np.moveaxis(np.concatenate(parts), 0, axis)
    return np.ascontiguousarray(pixels)


def _faded(edge: Bytes, depth: int) -> Bytes:
    """uint8 (depth, length, 3): at each depth the edge (length, 3), averaged over a third of the depth to each side."""
    length, reach = len(edge), depth // 3
    along = np.pad(edge, [(reach, reach), (0, 0)], mode="edge")
    sums: NDArray[np.float64] = np.concatenate((np.zeros((1, 3)), np.cumsum(along, axis=0, dtype=np.float64)))
    lines = np.empty((depth, length, 3), np.uint8)
    for index in range(depth):
        radius = index // 3
        first, last = reach - radius, reach + radius + 1
        lines[index] = np.rint((sums[last:last + length] - sums[first:first + length]) / (2 * radius + 1))
    return lines


def _pulled(weighted: Floats, known: Floats) -> Floats:
    """Colours everywhere, of colours times how well they are known."""
    if known.size == 1:
        return weighted / known[..., None]
    coarse_weighted, coarse_known = _halved(weighted), _halved(known[..., None])[..., 0]
    trust = np.minimum(coarse_known, 1)
    scale = trust / np.maximum(coarse_known, 1e-20)
    coarse = _pulled(coarse_weighted * scale[..., None], trust)
    below = _doubled(coarse, known.shape)
    clear = np.minimum(known, 1)[..., None]
    result: Floats = weighted / np.maximum(known, 1e-20)[..., None] * clear + below * (1 - clear)
    return result


def _halved(values: Floats) -> Floats:
    """Sums of squares of 2 x 2; the border is mirrored where a side is odd."""
    height, width = values.shape[:2]
    even = np.pad(values, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    return even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]


def _doubled(values: Floats, shape: tuple[int, ...]) -> Floats:
    """Twice as large, in straight lines between the centres of pixels, cut to `shape`."""
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if axis == other else (0, 0) for other in range(3)], mode="edge")
        length = values.shape[axis]
        before, here, after = (padded.take(range(at, at + length), axis=axis) for at in range(3))
        pairs = np.stack((0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after), axis=axis + 1)
        values = pairs.reshape(*values.shape[:axis], 2 * length, *values.shape[axis + 1:])
    return values[:shape[0], :shape[1]]


def matched(pixels: Bytes, target: Bytes) -> Bytes:
    """The picture (height, width, 3) with the colours of `target` (any size): in CIE LAB the distributions of a and b
    become those of the target, the lightness stays. So does A1111's colour correction."""
    lab, wanted = to_lab(pixels), to_lab(target)
    for channel in (1, 2):
        lab[..., channel] = _distribution(lab[..., channel], wanted[..., channel])
    return to_rgb(lab)


def _distribution(values: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value replaced by the one of equal rank among `wanted` (histogram matching)."""
    _, places, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    others, other_counts = np.unique(wanted.ravel(), return_counts=True)
    # Ranks at the middle of equal values, so that a flat picture gets the target's median and not its extreme.
    ranks, other_ranks = ((np.cumsum(n) - n / 2) / n.sum() for n in (counts, other_counts))
    new: NDArray[np.float64] = np.interp(ranks, other_ranks, others)[places.ravel()].reshape(values.shape)
    return new


def to_lab(pixels: Bytes) -> NDArray[np.float64]:
    """sRGB (…, 3) to CIE L*a*b* 1976, white D65."""
    t = _LINEAR[pixels] @ (_TO_XYZ.T / _WHITE)
    f = np.where(t > _EDGE**3, np.cbrt(t), t / (3 * _EDGE**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def to_rgb(lab: NDArray[np.float64]) -> Bytes:
    """CIE L*a*b* (…, 3) to sRGB; what sRGB cannot show is cut off."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack((y + lab[..., 1] / 500, y, y - lab[..., 2] / 200), axis=-1)
    t = np.where(f > _EDGE, f**3, 3 * _EDGE**2 * (f - 4 / 29))
    linear = np.clip(t * _WHITE @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    c = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    result: Bytes = np.rint(np.clip(c, 0, 1) * 255).astype(np.uint8)
    return result
