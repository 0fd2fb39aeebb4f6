"""Parts of a picture painted again at the model's own size: faces that a detector finds, boxes, or a mask."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

from diptych.core.canvas import Mask, Rectangle
from diptych.core.finish import Detail
from diptych.core.nudity import Detector
from diptych.engines.image.finish.tiles import Tell

Part = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""
MAX_FEATHER, MAX_PADDING = 256, 1024


class Repaint(Protocol):
    """Paints what a mask shows, from the picture as it is."""

    def __call__(self, pixels: np.ndarray, mask: Mask, stage: Detail) -> np.ndarray:
        """uint8 (height, width, 3) to the same, untouched outside of the mask. Raises DiptychError."""
        ...


def detailed(
    pixels: np.ndarray, stage: Detail, mask: Image.Image | None, detector: Detector, repaint: Repaint, tell: Tell,
) -> tuple[np.ndarray, list[Part]]:
    """uint8 (height, width, 3 or 4) with its parts painted again, and these; transparency stays.

    Args:
        mask: the picture that the stage names: one part.
    """
    made = np.ascontiguousarray(pixels[..., :3])
    size = (pixels.shape[1], pixels.shape[0])
    if mask is not None:
        box = mask.convert("L").resize(size, Image.Resampling.BILINEAR).getbbox()
        parts = [] if box is None else [box]
    else:
        parts = found_parts(made, stage, detector)
    for number, part in enumerate(parts):
        tell(number / len(parts))
        made = repaint(made, mask_of(part, size, stage, own_picture=mask is not None), stage)
    return (made if pixels.shape[2] == 3 else np.dstack([made, pixels[..., 3]])), parts


def found_parts(pixels: np.ndarray, stage: Detail, detector: Detector) -> list[Part]:
    """Faces that are sure enough, or the boxes of the stage; the largest first."""
    height, width = pixels.shape[:2]
    if stage.detect is not None:
        parts = [_inside((face.left, face.top, face.left + face.width, face.top + face.height), width, height)
                 for face in detector.faces(Image.fromarray(pixels)) if face.score >= stage.confidence]
    else:
        parts = [_inside((int(box.x * width), int(box.y * height), -int(-(box.x + box.width) * width // 1),
                          -int(-(box.y + box.height) * height // 1)), width, height) for box in stage.boxes]
    parts = [part for part in parts if part[2] > part[0] and part[3] > part[1]]
    return sorted(parts, key=lambda part: (part[0] - part[2]) * (part[3] - part[1]))[:stage.most]


def mask_of(part: Part, size: tuple[int, int], stage: Detail, *, own_picture: bool) -> Mask:
    """The mask of one part, which fades in over `stage.feather` of its larger side around it."""
    left, top, right, bottom = part
    side = max(right - left, bottom - top)
    feather = min(MAX_FEATHER, round(side * stage.feather))
    around = {"feather": feather, "blur": 0.0, "region": "masked", "fill": "original",
              "padding": min(MAX_PADDING, feather + round(side * stage.padding))}
    if own_picture:
        return Mask.model_validate({"image": stage.mask, **around})
    rectangle = Rectangle(kind="rectangle", units="pixels", x=float(left), y=float(top), width=float(right - left),
                          height=float(bottom - top))
    return Mask.model_validate({"shapes": (rectangle,), **around})


def _inside(part: Part, width: int, height: int) -> Part:
    left, top, right, bottom = part
    return max(0, left), max(0, top), min(width, right), min(height, bottom)
