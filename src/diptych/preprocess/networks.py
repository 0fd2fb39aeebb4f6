"""Control maps by models in ONNX files that the user has put there. Needs onnxruntime, imported when used."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import InvalidRequest, Unavailable
from diptych.preprocess.edges import Pixels

Values = NDArray[np.float32]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of pixels in 0..1 that depth and segmentation models were trained with."""
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
BYTES = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""Of models that take 0..255."""
MAX_CLASSES = 4096


@dataclass(frozen=True)
class Reading:
    """How a model reads a picture: mean and deviation of pixels in 0..1; where it takes any size, the side in pixels
    (None: that of the picture) and the number that sides have to be multiples of."""

    normal: tuple[tuple[float, float, float], tuple[float, float, float]]
    side: int | None
    multiple: int


READINGS = {
    "depth.onnx": Reading(IMAGENET, 518, 14), "hed.onnx": Reading(BYTES, None, 8),
    "pidinet.onnx": Reading(PLAIN, None, 8), "lineart.onnx": Reading(PLAIN, None, 8),
    "lineart_coarse.onnx": Reading(PLAIN, None, 8),
    "lineart_anime.onnx": Reading(((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), None, 32),
    "segmentation.onnx": Reading(IMAGENET, 512, 32), "dwpose.onnx": Reading(IMAGENET, None, 32)}


class Network:
    """One ONNX model with a picture as its only input, (1, 3, height, width)."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest: it is no such model. Unavailable: onnxruntime is not installed."""
        self.name = path.name
        self._reading = READINGS[path.name]
        try:
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError:
            raise Unavailable("onnxruntime is not installed, which models of preprocessors need: "
                              "pip install 'diptych[image]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common class of errors
            raise InvalidRequest(f"{self.name} cannot be read as an ONNX model ({type(error).__name__})",
                                 param="preprocessor") from None
        inputs = self._session.get_inputs()
        # Sides that may be anything are words instead of numbers.
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or (
                isinstance(inputs[0].shape[1], int) and inputs[0].shape[1] != 3):
            raise InvalidRequest(f"{self.name} does not take one picture, (1, 3, height, width)", param="preprocessor")
        self._input = inputs[0]

    def size_of(self, picture: Pixels) -> tuple[int, int]:
        """Height and width at which the model looks at a picture."""
        height, width = self._input.shape[2:]
        if isinstance(height, int) and isinstance(width, int):
            return height, width
        reading = self._reading
        share = 1.0 if reading.side is None else reading.side / min(picture.shape[:2])
        high, wide = (max(1, round(side * share / reading.multiple)) * reading.multiple for side in picture.shape[:2])
        return high, wide

    def __call__(self, picture: Pixels) -> list[Values]:
        """The model's outputs. Raises InvalidRequest when it fails."""
        height, width = self.size_of(picture)
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
        mean, deviation = self._reading.normal
        values = ((resized - np.array(mean)) / np.array(deviation)).astype(np.float32)
        try:
            found = self._session.run(None, {self._input.name: values.transpose(2, 0, 1)[None].copy()})
        except Exception as error:
            raise InvalidRequest(f"{self.name} fails on this picture ({type(error).__name__})",
                                 param="preprocessor") from None
        return [np.asarray(output, dtype=np.float32) for output in found]

    def plane(self, picture: Pixels) -> Values:
        """One number for each pixel, (height, width) of the picture: the mean of the outputs of one channel."""
        height, width = picture.shape[:2]
        planes = [output.reshape(output.shape[-2:]) for output in self(picture)
                  if output.ndim >= 2 and output.size == output.shape[-1] * output.shape[-2]]
        if not planes:
            raise InvalidRequest(f"{self.name} has no output of one channel, (1, 1, height, width)",
                                 param="preprocessor")
        return np.asarray(np.mean([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
                                   for plane in planes], axis=0), dtype=np.float32)


def depth(network: Network, picture: Pixels) -> Pixels:
    """Inverse depth scaled to 0..255: near is white."""
    values = network.plane(picture)
    low, high = float(values.min()), float(values.max())
    return np.round((values - low) * (255.0 / max(high - low, 1e-6))).astype(np.uint8)


def probability(network: Network, picture: Pixels) -> Pixels:
    """Probabilities in 0..1 as 0..255; values beyond that are logits."""
    values = network.plane(picture)
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        values = np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -50.0, 50.0))), dtype=np.float32)
    return np.round(values * 255.0).clip(0, 255).astype(np.uint8)


def drawing(network: Network, picture: Pixels) -> Pixels:
    """White lines on black of a model that draws dark lines on white."""
    return np.asarray(255 - probability(network, picture), dtype=np.uint8)


def segmentation(network: Network, picture: Pixels, colours: Path) -> Pixels:
    """The colour of the likeliest class at each pixel, (height, width, 3)."""
    table = _colours(colours)
    logits = network(picture)[0]
    if logits.ndim != 4 or logits.shape[1] > len(table):
        raise InvalidRequest(
            f"{network.name} gives {'x'.join(map(str, logits.shape))}; it has to be (1, classes, height, width) with "
            f"at most the {len(table)} classes of {colours.name}", param="preprocessor")
    height, width = picture.shape[:2]
    labels = logits[0].argmax(axis=0).astype(np.uint16)
    found = table[cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)]
    return np.asarray(found, dtype=np.uint8)


def _colours(path: Path) -> Pixels:
    """Red, green and blue of each class. Raises InvalidRequest."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[int(value) for value in row] for row, _ in zip(csv.reader(file), range(MAX_CLASSES), strict=False)
                    if row]
        return np.array(rows, dtype=np.uint8).reshape(-1, 3)
    except (OSError, ValueError, OverflowError):
        raise InvalidRequest(f"{path.name} is no table of red, green and blue, 0 to 255, one class a line",
                             param="preprocessor") from None
