"""Upscaling networks by the files they lie in: ESRGAN and its kin as safetensors, RealESRGAN for ncnn."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diptych.core.errors import InvalidRequest

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")


class Upscaler(Protocol):
    scale: int
    """How often as large each side becomes."""

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """float32 (height, width, 3), RGB from 0 to 1, to (height · scale, width · scale, 3)."""
        ...


def load_upscaler(path: str, device: torch.device, threads: int, *, param: str = "model") -> Upscaler:
    """The network in a file: `.safetensors`, or the `.param` of ncnn beside its `.bin`.

    Raises:
        InvalidRequest: a pickled file, none that holds an upscaler, or a package that it takes is not installed.
    """
    file = Path(path)
    if file.suffix == ".param":
        return NcnnUpscaler(file, threads, param)
    if file.suffix == ".safetensors":
        return TorchUpscaler(file, device, param)
    if file.suffix.lower() in PICKLES:
        raise InvalidRequest(
            f"{param}: {file.name} is a pickled file, which is not loaded because it can run code; convert it to "
            f"safetensors with: diptych models convert {file.name}", param=param)
    raise InvalidRequest(f"{param}: {file.name} is no upscaler: .safetensors and ncnn's .param are", param=param)


class NcnnUpscaler:
    """A network of ncnn's on the processor. It has one input, RGB from 0 to 1, and one output of the same kind."""

    def __init__(self, file: Path, threads: int, param: str) -> None:
        if importlib.util.find_spec("ncnn") is None:
            raise InvalidRequest(
                f"{param}: {file.stem} takes the package ncnn, which is not installed here; pip install "
                "'diptych[upscale]'", param=param, code="not_installed")
        self._ncnn = importlib.import_module("ncnn")
        weights = file.with_suffix(".bin")
        if not weights.is_file():
            raise InvalidRequest(f"{param}: {weights.name} is missing beside {file.name}", param=param)
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        bad = InvalidRequest(f"{param}: {file.name} and {weights.name} are damaged or no upscaler", param=param)
        if self._net.load_param(str(file)) or self._net.load_model(str(weights)):
            raise bad
        self._names = self._net.input_names(), self._net.output_names()
        if [len(names) for names in self._names] != [1, 1]:
            raise bad
        try:
            side = self(np.zeros((16, 16, 3), np.float32)).shape
        except (RuntimeError, ValueError):
            raise bad from None
        if len(side) != 3 or side[0] % 16 or side[0] != side[1] or side[2] != 3:
            raise bad
        self.scale = side[0] // 16

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        extractor = self._net.create_extractor()
        planes = np.ascontiguousarray(tile.transpose(2, 0, 1))  # a Mat does not keep the array that it was made of
        extractor.input(self._names[0][0], self._ncnn.Mat(planes).clone())
        failed, made = extractor.extract(self._names[1][0])
        if failed:
            raise RuntimeError(f"ncnn could not compute the tile ({failed})")
        picture: np.ndarray = np.array(made, np.float32).transpose(1, 2, 0)
        return picture


class TorchUpscaler:
    """A network that spandrel knows by the names of its weights: ESRGAN, RealESRGAN, Compact, SPAN, SwinIR, …"""

    def __init__(self, file: Path, device: torch.device, param: str) -> None:
        spandrel = _spandrel(file, param)
        try:
            weights = load_file(file)
            model = spandrel.ModelLoader().load_from_state_dict(weights)
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, spandrel.UnsupportedModelError) as error:
            raise InvalidRequest(f"{param}: {file.name} holds no upscaler that is known ({type(error).__name__})",
                                 param=param) from error
        if not isinstance(model, spandrel.ImageModelDescriptor) or (model.input_channels, model.output_channels) != (
                3, 3) or model.scale < 1:
            raise InvalidRequest(
                f"{param}: {file.name} is a {model.architecture.name} model, which makes no colour picture of a colour "
                "picture", param=param)
        self.scale: int = int(model.scale)
        self._model, self._device = model.to(device).eval(), device

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None].to(self._device)
            made: np.ndarray = self._model(rows)[0].permute(1, 2, 0).float().cpu().numpy()
        return made


def _spandrel(file: Path, param: str) -> Any:
    if importlib.util.find_spec("spandrel") is None or importlib.util.find_spec("einops") is None:
        raise InvalidRequest(
            f"{param}: {file.name} takes the packages spandrel and einops, which are not installed here; pip install "
            "einops, and pip install --no-deps spandrel", param=param, code="not_installed")
    with _without_torchvision():
        return importlib.import_module("spandrel")


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Lets spandrel be imported where there is no torchvision, of which there is no build that fits every torch. Two of
    its networks, neither an upscaler, use `rotate` and `normalize` of it; these fail when they are called."""
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return

    def missing(*values: Any, **named: Any) -> Any:
        raise RuntimeError("this network takes torchvision, which is not installed")

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: types.ModuleType(name) for name in names}
    for module in modules.values():
        module.__path__ = []
    functional: Any = modules[names[2]]
    functional.rotate = functional.normalize = missing
    functional.InterpolationMode = types.SimpleNamespace(NEAREST="nearest", BILINEAR="bilinear")
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def rounds_of(scale: int, factor: float) -> int:
    """How often a network of this scale is applied until a picture is at least `factor` times as large."""
    if scale < 2 or factor <= 1:
        return 1
    return max(1, math.ceil(math.log(factor) / math.log(scale) - 1e-9))
