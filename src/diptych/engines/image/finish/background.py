"""What stands in front of its background, found by an ONNX network: U²-Net, IS-Net, BiRefNet and their kin."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.errors import InvalidRequest

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, on which these networks were trained; IS-Net takes 0.5 and 1."""
DEFAULT_SIDE, LARGEST_SIDE = 320, 4096


class Matting:
    """A network that takes one RGB picture, (1, 3, side, side), and gives how far each pixel belongs to the front,
    (1, 1, side, side), as its first output.

    Raises:
        InvalidRequest: no such network, or onnxruntime is not installed.
    """

    def __init__(self, path: str, threads: int, *, param: str = "model") -> None:
        file = Path(path)
        if importlib.util.find_spec("onnxruntime") is None:
            raise InvalidRequest(f"{param}: {file.name} takes the package onnxruntime, which is not installed here; "
                                 "pip install 'diptych[moderation]'", param=param, code="not_installed")
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library has an exception of its own for every kind of damage
            raise InvalidRequest(f"{param}: {file.name} is no ONNX model that can be read ({type(error).__name__})",
                                 param=param) from error
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise InvalidRequest(f"{param}: {file.name} takes {shape}, not one RGB picture (1, 3, height, width)",
                                 param=param)
        self._size = _side(shape[3]), _side(shape[2])
        self._half = "isnet" in file.stem.lower()
        self._name, self._param = file.name, param

    def alpha(self, pixels: np.ndarray) -> np.ndarray:
        """How far each pixel of uint8 (height, width, 3 or 4) belongs to the front: uint8 (height, width)."""
        height, width = pixels.shape[:2]
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).resize(self._size, Image.Resampling.BILINEAR)
        values = np.asarray(image, np.float32) / 255
        mean, deviation = ((0.5,) * 3, (1.0,) * 3) if self._half else (MEAN, DEVIATION)
        values = ((values - np.asarray(mean)) / np.asarray(deviation)).astype(np.float32)
        kind = np.float16 if "float16" in self._input.type else np.float32
        try:
            found = self._session.run(None, {self._input.name: values.transpose(2, 0, 1)[None].astype(kind)})[0]
        except Exception as error:
            raise InvalidRequest(f"{self._param}: {self._name} could not look at the picture ({type(error).__name__})",
                                 param=self._param) from error
        if found.size != self._size[0] * self._size[1]:
            raise InvalidRequest(f"{self._param}: {self._name} gives {list(found.shape)}, not one value for each pixel",
                                 param=self._param)
        plane = _unit(found.astype(np.float32).reshape(self._size[1], self._size[0]))
        grey = Image.fromarray((plane * 255).round().astype(np.uint8)).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(grey)


def _side(side: Any) -> int:
    return side if isinstance(side, int) and 0 < side <= LARGEST_SIDE else DEFAULT_SIDE


def _unit(plane: np.ndarray) -> np.ndarray:
    """Values from 0 to 1: as they are where they are probabilities, through a sigmoid where they are logits."""
    if not np.isfinite(plane).all():
        return np.zeros_like(plane)
    if plane.min() < -0.01 or plane.max() > 1.01:
        return np.asarray(1 / (1 + np.exp(-plane.clip(-30, 30))))
    return plane.clip(0, 1)


def without_background(pixels: np.ndarray, matting: Matting) -> np.ndarray:
    """uint8 (height, width, 4): what was transparent stays so."""
    alpha = matting.alpha(pixels)
    if pixels.shape[2] == 4:
        alpha = np.minimum(alpha, pixels[..., 3])
    return np.dstack([pixels[..., :3], alpha])
