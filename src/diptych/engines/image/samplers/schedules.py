"""Noise schedules: the noise levels (sigmas) of each step, from the highest. Formulas in docs/samplers.md."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import beta  # type: ignore[import-untyped]

BETA = 0.6
RHO = {"karras": 7.0, "polyexponential": 1.0}
SPACING = {"uniform": "linspace", "ddim uniform": "leading", "trailing": "trailing"}
"""Schedules of whole timesteps, by diffusers' names."""
ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Stable Diffusion 1.5's levels for ten steps (Sabour et al. 2024, https://arxiv.org/abs/2404.14507)."""


@dataclass(frozen=True)
class Bounds:
    """Highest and lowest sigma, and the curvature of schedules that have one (None: the usual)."""

    high: float
    low: float
    rho: float | None = None


def sigmas(name: str, steps: int, bounds: Bounds, table: np.ndarray) -> np.ndarray:
    """Sigmas (steps,), descending, without the zero at the end.

    Args:
        name: a schedule that is not made of whole timesteps.
        table: the model's training sigmas, ascending.
    """
    high, low = bounds.high, bounds.low
    ramp = np.linspace(0, 1, steps)
    if name == "karras":
        rho = bounds.rho or RHO[name]
        found = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    elif name in ("exponential", "polyexponential"):
        power = (bounds.rho or RHO[name]) if name == "polyexponential" else 1.0
        found = np.exp(np.log(low) + (1 - ramp) ** power * (np.log(high) - np.log(low)))
    elif name == "beta":
        found = low + beta.ppf(1 - ramp, BETA, BETA) * (high - low)
    elif name == "kl optimal":
        found = np.tan((1 - ramp) * np.arctan(high) + ramp * np.arctan(low))
    elif name == "sgm uniform":
        times = np.linspace(len(table) - 1, 0, steps + 1)[:-1]
        found = np.exp(np.interp(times, np.arange(len(table)), np.log(table)))
    elif name == "simple":
        found = table[-1 - (np.arange(steps) * len(table) / steps).astype(int)]
    else:
        levels = np.log(ALIGN_YOUR_STEPS)
        found = np.exp(np.interp(ramp * (len(levels) - 1), np.arange(len(levels)), levels))
    return np.asarray(found, dtype=np.float64)


def restart_steps(steps: int, bounds: Bounds) -> list[tuple[float, float]]:
    """Pairs `(from, to)` of the Restart sampler: down to 0 on Karras' schedule, with extra descents from sigma 2 to 0.1
    (A1111's settings: none below 20 steps, one of 9 steps, two of a quarter of the steps from 36 on; Xu et al. 2023,
    https://arxiv.org/abs/2306.14878). They are `steps` together."""
    again, times = (steps // 4, 2) if steps >= 36 else (9, 1) if steps >= 20 else (0, 0)
    table = np.zeros(0)
    main = [*sigmas("karras", steps - again * times, bounds, table).tolist(), 0.0]
    pairs = list(pairwise(main))
    if not again:
        return pairs
    lowest = int(np.argmin(np.abs(np.array(main) - 0.1)))
    highest = int(np.argmin(np.abs(np.array(main) - 2.0)))
    if highest >= lowest or main[lowest] == 0:
        return pairs
    part = Bounds(main[highest], main[lowest], bounds.rho)
    levels = sigmas("karras", again + 1, part, table).tolist()
    return pairs[:lowest] + list(pairwise(levels)) * times + pairs[lowest:]
