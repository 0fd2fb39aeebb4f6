"""What an adapter adds to one layer.

`change(module, x, y, weight)` turns the layer's output `y` for the input `x` into what the layer with `weight` times
the adapter gives, in place. Linear layers: x (rows, …, inputs), y (rows, …, outputs); convolutions: (rows, channels,
height, width). `weight_change()` is the same as a tensor of the layer's weight shape, for a weight of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional

KEPT_FACTORS = 8
"""Strengths of one DoRA layer whose factors are kept."""


class Delta(Protocol):
    """See the top of this file."""

    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor, weight: float) -> None: ...

    def weight_change(self) -> torch.Tensor: ...

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""
        ...


def applied(module: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer's operation with another weight and without bias; convolutions keep stride and padding."""
    if isinstance(module, torch.nn.Conv2d):
        found: torch.Tensor = module._conv_forward(x, weight, None)
        return found
    return functional.linear(x, weight)


@dataclass(frozen=True)
class LowRank:
    """`scale · up · mid · down` (Hu et al. 2021, https://arxiv.org/abs/2106.09685). Linear: down (rank, inputs), up
    (outputs, rank). Convolution: down (rank, inputs, kh, kw), up (outputs, rank, 1, 1); where there is `mid` (rank,
    rank, kh, kw), it has the kernel and down is (rank, inputs, 1, 1)."""

    down: torch.Tensor
    up: torch.Tensor
    mid: torch.Tensor | None
    scale: float

    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
        inner = self._inner(module, x)
        if self.up.ndim == 4:
            y.add_(functional.conv2d(inner, self.up), alpha=weight * self.scale)
        elif y.is_contiguous():
            rows = y.view(-1, y.shape[-1])
            torch.addmm(rows, inner.reshape(-1, inner.shape[-1]), self.up.t(), alpha=weight * self.scale, out=rows)
        else:
            y.add_(functional.linear(inner, self.up), alpha=weight * self.scale)

    def _inner(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        if self.mid is None:
            return applied(module, x, self.down)
        return applied(module, functional.conv2d(x, self.down), self.mid)

    def weight_change(self) -> torch.Tensor:
        down, up = self.down, self.up
        if self.mid is not None:
            return self.scale * torch.einsum("or,rqkl,qi->oikl", up[:, :, 0, 0], self.mid, down[:, :, 0, 0])
        product = up.flatten(1) @ down.flatten(1)
        return self.scale * product.view(up.shape[0], *down.shape[1:])

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.down, self.up) if self.mid is None else (self.down, self.up, self.mid)


class _Dense:
    """Deltas that have to be multiplied out before they can be applied."""

    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
        y.add_(applied(module, x, self.weight_change()), alpha=weight)

    def weight_change(self) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Hadamard(_Dense):
    """LoHa: the product, value by value, of two low-rank matrices (Hyeon-Woo et al. 2021,
    https://arxiv.org/abs/2108.06098). `first`, `second`: (outputs, rank) and (rank, inputs · kernel), or for a
    convolution with a core (rank, rank, kh, kw): (rank, outputs), (rank, inputs) and the core."""

    first: tuple[torch.Tensor, ...]
    second: tuple[torch.Tensor, ...]
    shape: torch.Size
    scale: float

    def weight_change(self) -> torch.Tensor:
        return self.scale * (_product(self.first) * _product(self.second)).view(self.shape)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.first + self.second


@dataclass(frozen=True)
class Kronecker(_Dense):
    """LoKr: the Kronecker product of a small matrix and a large one (Yeh et al. 2023, https://arxiv.org/abs/2309.14859);
    each is whole (one tensor) or a product, as in `Hadamard`."""

    first: tuple[torch.Tensor, ...]
    second: tuple[torch.Tensor, ...]
    shape: torch.Size
    scale: float

    def weight_change(self) -> torch.Tensor:
        first, second = _product(self.first), _product(self.second)
        if second.ndim == 4:
            first = first[:, :, None, None]
        return self.scale * torch.kron(first, second.contiguous()).reshape(self.shape)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.first + self.second


@dataclass(frozen=True)
class Whole(_Dense):
    """The change itself, of the layer's weight and of its bias."""

    weights: torch.Tensor | None
    bias: torch.Tensor | None = None

    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
        if self.weights is not None:
            super().change(module, x, y, weight)
        if self.bias is not None:
            y.add_(self.bias[:, None, None] if y.ndim == 4 else self.bias, alpha=weight)

    def weight_change(self) -> torch.Tensor:
        return torch.zeros(()) if self.weights is None else self.weights

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(one for one in (self.weights, self.bias) if one is not None)


@dataclass(frozen=True)
class Decomposed:
    """DoRA: `magnitude · (W + delta) / ‖W + delta‖` (Liu et al. 2024, https://arxiv.org/abs/2402.09353), with the norm
    of each output, or of each input where `magnitude` is (1, inputs, …). A weight scales the delta inside the norm."""

    inner: Delta
    magnitude: torch.Tensor
    by_input: bool
    _factors: dict[float, torch.Tensor] = field(default_factory=dict)

    def change(self, module: Any, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
        factor = self._factor(module.weight, weight)
        if self.by_input:
            changed = (module.weight + weight * self.inner.weight_change()) * factor
            y.add_(applied(module, x, changed - module.weight))
            return
        aside = (1, -1, 1, 1) if y.ndim == 4 else (-1,)
        factor = factor.view(aside)
        bias = None if module.bias is None else module.bias.view(aside)
        if bias is not None:
            y.sub_(bias)
        self.inner.change(module, x, y, weight)
        y.mul_(factor)
        if bias is not None:
            y.add_(bias)

    def _factor(self, original: torch.Tensor, weight: float) -> torch.Tensor:
        """Magnitude over norm, of a shape that multiplies the layer's weight."""
        if weight not in self._factors:
            if len(self._factors) >= KEPT_FACTORS:
                self._factors.clear()
            changed = original.float() + weight * self.inner.weight_change().float()
            axes = [axis for axis in range(changed.ndim) if axis != int(self.by_input)]
            norm = changed.pow(2).sum(axes, keepdim=True).sqrt()
            self._factors[weight] = (self.magnitude.float().view(norm.shape) / norm).to(original.dtype)
        return self._factors[weight]

    def weight_change(self) -> torch.Tensor:
        raise NotImplementedError("the change of a DoRA layer depends on the layer's own weight")

    def merged(self, original: torch.Tensor, weight: float) -> torch.Tensor:
        """The layer's weight with the adapter in it."""
        return (original + weight * self.inner.weight_change()) * self._factor(original, weight)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (*self.inner.tensors(), self.magnitude)


def _product(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The matrix that one to three tensors stand for."""
    if len(factors) == 1:
        return factors[0]
    if len(factors) == 2:
        return factors[0] @ factors[1]
    first, second, core = factors
    return torch.einsum("ijkl,jr,ip->prkl", core, second, first)
