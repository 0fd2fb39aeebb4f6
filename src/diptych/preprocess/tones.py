"""Pictures with less in them, and surface normals from depth. Pictures are RGB, uint8 (height, width, 3)."""

from __future__ import annotations

import cv2
import numpy as np

from diptych.preprocess.edges import Pixels


def tile(picture: Pixels, rate: float) -> Pixels:
    """Scaled down by `rate` and up again; 1 leaves it as it is."""
    if rate <= 1.0:
        return picture
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, round(width / rate)), max(1, round(height / rate))),
                       interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def blur(picture: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), dtype=np.uint8)


def normals(depth: Pixels, background: float) -> Pixels:
    """Surface normals of a depth map (height, width), near is white, as colours: x to the left is red, y up is green,
    z towards the viewer is blue. Where depth is less than the share `background`, the surface faces the viewer."""
    values = cv2.GaussianBlur(depth.astype(np.float32) / 255.0, (0, 0), 1.0)
    # Depth has no unit: a slope over a sixth of the picture's side counts as 45 degrees.
    scale = min(depth.shape) / 6.0
    across = cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=3) / 8.0 * scale
    down = cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=3) / 8.0 * scale
    across[values < background] = 0
    down[values < background] = 0
    vectors = np.stack([across, -down, np.ones_like(across)], axis=2)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return np.round((vectors + 1.0) * 127.5).astype(np.uint8)
