"""Edges, lines and strokes, by OpenCV alone. Pictures are RGB, uint8 (height, width, 3); maps are uint8 (height,
width), white on black."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def grey(picture: Pixels) -> Pixels:
    """Luma of an RGB picture, uint8 (height, width)."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def canny(picture: Pixels, low: float, high: float) -> Pixels:
    """Edges one pixel wide, 0 or 255 (Canny 1986); gradients over `high` begin an edge, those over `low` go on."""
    return np.asarray(cv2.Canny(grey(picture), low, high), dtype=np.uint8)


def lineart(picture: Pixels, sigma: float, least: float) -> Pixels:
    """How much darker a pixel is than its surroundings, a Gaussian of `sigma`: as lines drawn on paper are. What is
    darker by less than `least` is paper; the rest is scaled so that its median is half white."""
    values = picture.astype(np.float32)
    darker = (cv2.GaussianBlur(values, (0, 0), sigma) - values).min(axis=2)
    strong = darker[darker > least]
    if strong.size == 0:
        return np.zeros(picture.shape[:2], np.uint8)
    # Less than 16 of difference is faint: it is not made as bright as ink.
    scaled = np.where(darker > least, darker, 0) * (127.0 / max(16.0, float(np.median(strong))))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def softedge(picture: Pixels, sigma: float) -> Pixels:
    """Size of the gradient (Scharr) of the blurred picture, the strongest of the three channels, scaled so that all but
    the strongest hundredth keep their differences."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)
    across, down = cv2.Scharr(blurred, cv2.CV_32F, 1, 0), cv2.Scharr(blurred, cv2.CV_32F, 0, 1)
    size = np.hypot(across, down).max(axis=2)
    top = max(float(np.percentile(size, 99)), 16.0 * 16.0)
    return np.asarray(np.clip(np.round(size * (255.0 / top)), 0, 255), dtype=np.uint8)


def scribble(edges: Pixels) -> Pixels:
    """Strokes, 0 or 255, three pixels and more wide along the bright lines of a map."""
    strong = np.asarray((edges > 127) * np.uint8(255), dtype=np.uint8)
    side = max(3, 2 * (min(edges.shape) // 256) + 1)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(strong, brush), dtype=np.uint8)


def xdog(picture: Pixels, threshold: float) -> Pixels:
    """Strokes, 0 or 255, where a pixel is darker than its wider surroundings by more than `threshold` (difference of
    Gaussians; Winnemöller et al. 2012, "XDoG")."""
    values = picture.astype(np.float32)
    near, far = cv2.GaussianBlur(values, (0, 0), 0.5), cv2.GaussianBlur(values, (0, 0), 5.0)
    return np.asarray(((far - near).max(axis=2) > threshold) * np.uint8(255), dtype=np.uint8)


def lines(picture: Pixels, shortest: float) -> Pixels:
    """Straight segments of at least `shortest` pixels, drawn one pixel wide (von Gioi et al. 2010, LSD)."""
    found = cv2.createLineSegmentDetector().detect(grey(picture))[0]
    drawn = np.zeros(picture.shape[:2], np.uint8)
    for x0, y0, x1, y1 in np.zeros((0, 4)) if found is None else np.asarray(found).reshape(-1, 4):
        if np.hypot(x1 - x0, y1 - y0) >= shortest:
            cv2.line(drawn, (round(x0), round(y0)), (round(x1), round(y1)), 255, 1)
    return drawn


def threshold(picture: Pixels, value: float) -> Pixels:
    """0 or 255: whether luma is over `value`; with 0, over the value that parts light from dark best (Otsu 1979)."""
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if value == 0 else 0)
    return np.asarray(cv2.threshold(grey(picture), value, 255, kind)[1], dtype=np.uint8)
