"""Solvers of the probability flow ODE and of its stochastic kin, in k-diffusion's variables: latents x of noise level
sigma. Each is a generator that yields what it wants the model to look at and is sent the model's denoised latents, so
that pictures with different solvers share passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

Call = tuple[torch.Tensor, float, float]
"""Latents, their sigma, and the fraction of the steps that are done."""
Answer = tuple[torch.Tensor, torch.Tensor]
"""The latents that the model saw, and where it sees them end."""
Solver = Generator[Call, Answer, torch.Tensor]


@dataclass(frozen=True)
class Randomness:
    """How much noise is put back. `noise` draws standard normal numbers of a tensor's shape."""

    noise: Callable[[torch.Tensor], torch.Tensor]
    eta: float = 1.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def add(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x + self.noise(x) * (self.s_noise * sigma)

    def churned(self, x: torch.Tensor, sigma: float, steps: int) -> tuple[torch.Tensor, float]:
        """Latents at a somewhat higher sigma, and that sigma (Karras et al. 2022, algorithm 2)."""
        if self.s_churn <= 0 or not self.s_tmin <= sigma <= self.s_tmax:
            return x, sigma
        higher = sigma * (1 + min(self.s_churn / steps, math.sqrt(2) - 1))
        return self.add(x, math.sqrt(higher ** 2 - sigma ** 2)), higher


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """`(down, up)`: the sigma to go down to, and that of the noise to add, to arrive at `following`."""
    if not eta or not following:
        return following, 0.0
    up = min(following, eta * math.sqrt(max(following ** 2 * (sigma ** 2 - following ** 2) / sigma ** 2, 0.0)))
    return math.sqrt(max(following ** 2 - up ** 2, 0.0)), up


def euler(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """Karras et al. 2022 (https://arxiv.org/abs/2206.00364), algorithm 2 without its second order."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        x, sigma = random.churned(x, sigma, steps)
        x, denoised = yield x, sigma, index / steps
        x = x + (x - denoised) * ((following - sigma) / sigma)
    return x


def euler_ancestral(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """A step of Euler's to a lower level than the next one, then noise up to it."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        x, denoised = yield x, sigma, index / steps
        down, up = ancestral(sigma, following, random.eta)
        x = random.add(x + (x - denoised) * ((down - sigma) / sigma), up)
    return x


def _heun_step(x: torch.Tensor, sigma: float, following: float, done: float) -> Solver:
    x, denoised = yield x, sigma, done
    slope = (x - denoised) / sigma
    if following:
        _, denoised = yield (ahead := x + slope * (following - sigma)), following, done
        slope = (slope + (ahead - denoised) / following) / 2
    return x + slope * (following - sigma)


def heun(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """Karras et al. 2022, algorithm 2."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        x, sigma = random.churned(x, sigma, steps)
        x = yield from _heun_step(x, sigma, following, index / steps)
    return x


def restart(x: torch.Tensor, pairs: list[tuple[float, float]], random: Randomness) -> Solver:
    """Xu et al. 2023: Heun's method, and noise wherever a pair begins above the end of the one before."""
    last = math.inf
    for index, (sigma, following) in enumerate(pairs):
        if sigma > last:
            x = random.add(x, math.sqrt(sigma ** 2 - last ** 2))
        x = yield from _heun_step(x, sigma, following, index / len(pairs))
        last = following
    return x


def _midpoint_step(x: torch.Tensor, sigma: float, following: float, done: float) -> Solver:
    """Second order by the slope at the geometric mean of the two levels."""
    x, denoised = yield x, sigma, done
    if not following:
        return denoised
    middle = math.sqrt(sigma * following)
    _, denoised = yield (half := x + (x - denoised) * ((middle - sigma) / sigma)), middle, done
    return x + (half - denoised) * ((following - sigma) / middle)


def dpm2(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """DPM-Solver-2 as k-diffusion has it, with algorithm 2's churn."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        x, sigma = random.churned(x, sigma, steps)
        x = yield from _midpoint_step(x, sigma, following, index / steps)
    return x


def dpm2_ancestral(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """DPM2 with ancestral noise."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        down, up = ancestral(sigma, following, random.eta)
        x = random.add((yield from _midpoint_step(x, sigma, down, index / steps)), up)
    return x


def dpmpp_2s_ancestral(x: torch.Tensor, levels: list[float], random: Randomness) -> Solver:
    """DPM-Solver++(2S) (Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 1) with ancestral noise."""
    steps = len(levels) - 1
    for index, (sigma, following) in enumerate(pairwise(levels)):
        x, denoised = yield x, sigma, index / steps
        down, up = ancestral(sigma, following, random.eta)
        if not down:
            # The exponential integrator's limit at level 0; with `up` it is all noise on top of it.
            x = denoised
        else:
            middle = math.sqrt(sigma * down)
            half = x * (middle / sigma) + denoised * (1 - middle / sigma)
            _, denoised = yield half, middle, index / steps
            x = x * (down / sigma) + denoised * (1 - down / sigma)
        if up:
            x = random.add(x, up)
    return x


def _descent(high: float, low: float, parts: int) -> Iterator[tuple[float, float]]:
    return pairwise(math.exp(math.log(high) + (math.log(low) - math.log(high)) * part / parts)
                    for part in range(parts + 1))


def _noise_from(sigma: float, following: float, lowest: float, eta: float) -> tuple[float, float]:
    """As `ancestral`, but never below the lowest level."""
    down = max(ancestral(sigma, following, eta)[0], lowest)
    return down, math.sqrt(max(following ** 2 - down ** 2, 0.0))


def _dpm_step(x: torch.Tensor, sigma: float, to: float, order: int, done: float) -> Generator[
        Call, Answer, tuple[torch.Tensor, torch.Tensor]]:
    """One step of DPM-Solver-1, -2 or -3 (Lu et al. 2022, https://arxiv.org/abs/2206.00927) in `order` calls; the
    second result is that of DPM-Solver-2 with r = 1/3 where the order is 3, to tell the error by."""
    h = math.log(sigma / to)
    x, denoised = yield x, sigma, done
    first = (x - denoised) / sigma
    plain = x - first * (to * math.expm1(h))
    if order == 1:
        return plain, plain
    r = 1 / 2 if order == 2 else 1 / 3
    level = sigma * math.exp(-r * h)
    _, denoised = yield (point := x - first * (level * math.expm1(r * h))), level, done
    change = (point - denoised) / level - first
    second = plain - change * (to / (2 * r) * math.expm1(h))
    if order == 2:
        return second, plain
    level = sigma * math.exp(-2 / 3 * h)
    point = x - first * (level * math.expm1(2 / 3 * h))
    point = point - change * (level * 2 * (math.expm1(2 / 3 * h) / (2 / 3 * h) - 1))
    _, denoised = yield point, level, done
    change = (point - denoised) / level - first
    return plain - change * (to * 3 / 2 * (math.expm1(h) / h - 1)), second


def dpm_fast(x: torch.Tensor, high: float, low: float, calls: int, random: Randomness) -> Solver:
    """DPM-Solver-fast: `calls` calls, by steps of third order and a rest of lower order; ends at `low`."""
    parts = calls // 3 + 1
    orders = [3] * (parts - 2) + [2, 1] if calls % 3 == 0 else [3] * (parts - 1) + [calls % 3]
    made = 0
    for order, (sigma, following) in zip(orders, _descent(high, low, parts), strict=True):
        down, up = _noise_from(sigma, following, low, random.eta)
        x, _ = yield from _dpm_step(x, sigma, down, order, made / calls)
        x = random.add(x, up)
        made += order
    return x


ABSOLUTE, RELATIVE = 0.0078, 0.05
ACCEPTED = 0.81
MOST_TRIES = 1000


def dpm_adaptive(x: torch.Tensor, high: float, low: float, random: Randomness) -> Solver:
    """DPM-Solver-12/23's adaptive steps, third order: a step is taken again, smaller, where the second order disagrees
    by more than the tolerance; ends at `low`. Raises ArithmeticError where it comes to no end."""
    h, sigma, last = 0.05, high, x
    for _ in range(MOST_TRIES):
        following = max(sigma * math.exp(-h), low)
        down, up = _noise_from(sigma, following, low, random.eta)
        done = math.log(high / sigma) / math.log(high / low)
        third, second = yield from _dpm_step(x, sigma, down, 3, done)
        scale = torch.clamp(RELATIVE * torch.maximum(second.abs(), last.abs()), min=ABSOLUTE)
        error = float(torch.linalg.vector_norm((third - second) / scale)) / math.sqrt(x.numel())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / 3) - 1)
        if factor >= ACCEPTED:
            last, x, sigma = second, random.add(third, up), following
            if math.log(sigma / low) < 1e-5:
                return x
        h *= factor
    raise ArithmeticError(f"DPM adaptive took {MOST_TRIES} steps and is not done; try another sampler")
