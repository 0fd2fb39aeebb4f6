"""Skeletons of people in the colours of OpenPose, by a DWPose model: of the person that fills the picture most."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from diptych.core.errors import InvalidRequest
from diptych.preprocess.edges import Pixels
from diptych.preprocess.networks import Network, Values

BODY = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""Which of COCO's 17 points OpenPose's 18 are; -1 is the neck, between the shoulders (5 and 6)."""
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
         (0, 14), (14, 16), (0, 15), (15, 17))
"""Pairs of OpenPose's points, in the order of their colours: hues of 20 degrees each."""


def pose(network: Network, picture: Pixels, confidence: float) -> Pixels:
    """Skeleton (height, width, 3) on black; points of less than `confidence` and their limbs are left out.

    Raises:
        InvalidRequest: the model does not give two outputs (1, points, bins), one for each direction.
    """
    outputs = network(picture)
    if len(outputs) != 2 or any(output.ndim != 3 or output.shape[1] < 17 for output in outputs):
        raise InvalidRequest(f"{network.name} is no DWPose model: it has to give (1, points, bins) for x and for y",
                             param="preprocessor")
    return _drawn(_points(outputs[0][0], outputs[1][0], picture.shape), confidence, picture.shape)


def _points(across: Values, down: Values, shape: tuple[int, ...]) -> Values:
    """OpenPose's points (18, 3): x, y and confidence. Each direction is a row of bins (Li et al. 2022, SimCC)."""
    sure = np.minimum(across.max(axis=1), down.max(axis=1))
    found = np.stack([across.argmax(axis=1) / across.shape[1] * shape[1],
                      down.argmax(axis=1) / down.shape[1] * shape[0], sure], axis=1)
    neck = np.append((found[5, :2] + found[6, :2]) / 2, min(found[5, 2], found[6, 2]))
    return np.asarray([neck if index < 0 else found[index] for index in BODY], dtype=np.float32)


def _drawn(points: Values, confidence: float, shape: tuple[int, ...]) -> Pixels:
    canvas = np.zeros((shape[0], shape[1], 3), np.uint8)
    width = max(1, round(min(shape[:2]) / 128))
    for number, (first, second) in enumerate(LIMBS):
        if min(points[first, 2], points[second, 2]) >= confidence:
            (x0, y0), (x1, y1) = points[first, :2], points[second, :2]
            angle = float(np.degrees(np.arctan2(y1 - y0, x1 - x0)))
            axes = (max(1, round(float(np.hypot(x1 - x0, y1 - y0)) / 2)), width)
            middle = (round((x0 + x1) / 2), round((y0 + y1) / 2))
            # Limbs are darker than the points, as OpenPose draws them.
            cv2.ellipse(canvas, middle, axes, angle, 0, 360, [0.6 * value for value in _colour(number)], thickness=-1)
    for number, (x, y, sure) in enumerate(points):
        if sure >= confidence:
            cv2.circle(canvas, (round(x), round(y)), width, _colour(number), thickness=-1)
    return canvas


def _colour(number: int) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(number / 18, 1.0, 1.0)
    return 255.0 * red, 255.0 * green, 255.0 * blue
