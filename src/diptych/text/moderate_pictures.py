"""Nudity in pictures that are sent as files."""

from __future__ import annotations

from diptych.core.nudity import PACKAGES, Detector, installed
from diptych.core.pictures import ImageLimits, decode_picture

__all__ = ["PACKAGES", "PictureJudge", "installed"]


class PictureJudge:
    """Loads its model when it is first asked, and keeps it. One for each server."""

    def __init__(self) -> None:
        self._detector = Detector()

    def scores(self, raws: list[bytes]) -> list[dict[str, float]]:
        """`{"sexual": 0 to 1}` of each picture (encoded files): the surest finding of something exposed. Blocks.

        Raises:
            ImportError: a package is not installed. InvalidRequest: no picture that can be read.
        """
        pictures = [decode_picture(raw, ImageLimits(), param="picture").image for raw in raws]
        return [{"sexual": self._detector.exposed(picture)} for picture in pictures]
