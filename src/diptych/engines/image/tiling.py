"""Pictures that continue at their opposite side: convolutions that wrap around."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class Tiling:
    """Has the convolutions of some modules wrap around or not, from one pass to the next."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self._modules = modules
        self._mode = "none"
        self._installed = False

    def set(self, mode: str) -> None:
        """`none`, `both`, `x` (left and right) or `y` (top and bottom), from the next pass on."""
        if mode != "none" and not self._installed:
            self._install()
        self._mode = mode

    def _install(self) -> None:
        self._installed = True
        for module in self._modules:
            for one in module.modules():
                if isinstance(one, torch.nn.Conv2d) and any(one.padding):
                    one._conv_forward = self._forward_of(one)  # type: ignore[method-assign]

    def _forward_of(self, convolution: torch.nn.Conv2d) -> Any:
        plain = convolution._conv_forward
        down, across = (int(length) for length in convolution.padding)

        def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if self._mode == "none":
                result: torch.Tensor = plain(x, weight, bias)
                return result
            for name, sides in (("x", (across, across, 0, 0)), ("y", (0, 0, down, down))):
                x = functional.pad(x, sides, mode="circular" if self._mode in (name, "both") else "constant")
            return functional.conv2d(
                x, weight, bias, convolution.stride, 0, convolution.dilation, convolution.groups)

        return forward
