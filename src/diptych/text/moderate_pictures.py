"""Nudity in pictures, by the detector that the package nudenet carries (YOLOv8n, 320 pixels, ONNX)."""

from __future__ import annotations

import importlib
from typing import Any

EXPOSED = {"FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED",
           "BUTTOCKS_EXPOSED"}


def picture_scores(raws: list[bytes]) -> list[dict[str, float]]:
    """`{"sexual": 0 to 1}` of each picture (encoded files): the surest finding of something exposed. Blocks; loads the
    model, which takes about a second. Raises ImportError."""
    detector: Any = importlib.import_module("nudenet").NudeDetector()
    return [{"sexual": max((float(one["score"]) for one in detector.detect(raw) if one["class"] in EXPOSED),
                           default=0.0)} for raw in raws]
