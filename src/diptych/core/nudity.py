"""Nudity and faces in pictures, by the detector that the package nudenet carries (YOLOv8n, 320 pixels, ONNX). Needs
nudenet, onnxruntime, numpy and Pillow, which are imported when it is used."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

PACKAGES = ("nudenet", "onnxruntime")
EXPOSED = frozenset({"FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED",
                     "BUTTOCKS_EXPOSED"})
FACES = frozenset({"FACE_FEMALE", "FACE_MALE"})
SIDE = 960
"""Pixels. The detector pads a picture to a square: a long thin one must be made small first."""


@dataclass(frozen=True)
class Finding:
    """Something found in a picture: its place in pixels, and how sure it is (0 to 1)."""

    name: str
    score: float
    left: int
    top: int
    width: int
    height: int


def installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


class Detector:
    """Loads its model when it is first asked, and keeps it. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: Any = None

    def exposed(self, image: Image.Image) -> float:
        """The surest finding of something exposed, 0 to 1. A transparent picture (RGBA) is looked at as it is on white,
        and without its transparency. Raises ImportError."""
        return max((finding.score for shown in _shown(image) for finding in self._find(shown, EXPOSED)), default=0.0)

    def faces(self, image: Image.Image) -> list[Finding]:
        """The faces in a picture, the surest first. Raises ImportError."""
        return sorted(self._find(image.convert("RGB"), FACES), key=lambda face: -face.score)

    def _find(self, image: Image.Image, names: Collection[str]) -> list[Finding]:
        import numpy

        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        across, down = image.width / small.width, image.height / small.height
        pixels = numpy.ascontiguousarray(numpy.asarray(small)[:, :, ::-1])  # BGR
        with self._lock:
            if self._model is None:
                self._model = importlib.import_module("nudenet").NudeDetector()
            found = self._model.detect(pixels)
        return [Finding(one["class"], min(1.0, float(one["score"])), round(one["box"][0] * across),
                        round(one["box"][1] * down), round(one["box"][2] * across), round(one["box"][3] * down))
                for one in found if one["class"] in names]


def _shown(image: Image.Image) -> list[Image.Image]:
    from PIL import Image as Images

    if image.mode != "RGBA":
        return [image.convert("RGB")]
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return [small.convert("RGB"), Images.alpha_composite(Images.new("RGBA", small.size, "white"), small).convert("RGB")]
