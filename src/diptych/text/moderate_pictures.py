"""Nudity in pictures, by the detector that the package nudenet carries (YOLOv8n, 320 pixels, ONNX)."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import Any

from diptych.core.pictures import ImageLimits, decode_picture

PACKAGES = ("nudenet", "onnxruntime")
EXPOSED = {"FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED",
           "BUTTOCKS_EXPOSED"}
SIDE = 960
"""Pixels. The detector pads a picture to a square: a long thin one must be made small first."""


def installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


class PictureJudge:
    """Loads its model when it is first asked, and keeps it. One for each server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._detector: Any = None

    def scores(self, raws: list[bytes]) -> list[dict[str, float]]:
        """`{"sexual": 0 to 1}` of each picture (encoded files): the surest finding of something exposed. Blocks.

        Raises:
            ImportError: a package is not installed. InvalidRequest: no picture that can be read.
        """
        with self._lock:
            if self._detector is None:
                self._detector = importlib.import_module("nudenet").NudeDetector()
            return [{"sexual": max(map(self._exposed, _seen(raw)), default=0.0)} for raw in raws]

    def _exposed(self, pixels: Any) -> float:
        found = self._detector.detect(pixels)
        return min(1.0, max((float(one["score"]) for one in found if one["class"] in EXPOSED), default=0.0))


def _seen(raw: bytes) -> list[Any]:
    """What is to be looked at: uint8 BGR, (height, width, 3), with SIDE pixels at most on a side. A transparent picture
    is shown as it looks on white, and as it is without its transparency."""
    import numpy
    from PIL import Image

    image = decode_picture(raw, ImageLimits(), param="picture").image
    image.thumbnail((SIDE, SIDE))
    shown = [image.convert("RGB")]
    if image.mode == "RGBA":
        shown.append(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    return [numpy.ascontiguousarray(numpy.asarray(one)[:, :, ::-1]) for one in shown]
