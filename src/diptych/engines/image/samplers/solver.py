"""A picture that a solver of our own moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from diptych.core.errors import JobFailed
from diptych.engines.image.samplers.base import Sampler
from diptych.engines.image.samplers.solvers import Randomness, Solver


class Levels:
    """The noise levels of one model's schedule and the timesteps that belong to them, from a plain Euler scheduler of
    diffusers with its timesteps set."""

    def __init__(self, scheduler: Any) -> None:
        self.sigmas: list[float] = [float(sigma) for sigma in scheduler.sigmas]
        self.initial = float(scheduler.init_noise_sigma)
        self.spacing = str(scheduler.config.timestep_spacing)
        self.prediction_type = str(scheduler.config.prediction_type)
        self._known = dict(zip(self.sigmas, (float(t) for t in scheduler.timesteps), strict=False))
        table = training_sigmas(scheduler)
        self._logs = np.log(table)
        self.high, self.low = float(table[-1]), float(table[0])

    def timestep(self, sigma: float) -> float:
        """The schedule's own, or what lies between the training levels, linear in log sigma."""
        if sigma in self._known:
            return self._known[sigma]
        return float(np.interp(np.log(sigma), self._logs, np.arange(len(self._logs))))


def training_sigmas(scheduler: Any) -> np.ndarray:
    """Sigmas (training timesteps,) of a diffusers scheduler, ascending."""
    alphas = scheduler.alphas_cumprod.double().numpy()
    return np.asarray(((1 - alphas) / alphas) ** 0.5)


class SolverSampler(Sampler):
    """See `Sampler`. Latents are kept in float32, whatever the model's precision."""

    def __init__(
        self, levels: Levels, steps: int, seed: int, solve: Callable[[torch.Tensor, Randomness], Solver],
        randomness: dict[str, float], initial: float | None = None, skip: int = 0,
    ) -> None:
        """`initial` is the first latents' scale, where the solver does not begin at the schedule's first level."""
        super().__init__(steps, seed, skip)
        self._levels = levels
        self._solve = solve
        self._random = Randomness(self._noise, **randomness)
        self._initial = levels.initial if initial is None else initial
        self._solver: Solver | None = None
        self._sigma = 0.0
        self._fraction = 0.0
        self._dtype = torch.float32

    @property
    def timestep(self) -> float:
        return self._levels.timestep(self._sigma)

    @property
    def done(self) -> bool:
        return self._fraction >= 1.0

    @property
    def step(self) -> int:
        return self.skip + int((self.steps - self.skip) * self._fraction + 1e-6)

    def start(self, noise: torch.Tensor, origin: torch.Tensor | None = None) -> torch.Tensor:
        self._dtype = noise.dtype
        first = noise.float() * self._initial
        if origin is not None:
            first = origin.float() + noise.float() * self._levels.sigmas[self.skip]
        self._solver = self._solve(first, self._random)
        latents, self._sigma, self._fraction = next(self._solver)
        return latents

    def noised(self, origin: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if self.done:
            return origin
        return origin.float() + noise.float() * self._sigma

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents / math.sqrt(self._sigma ** 2 + 1)).to(self._dtype)

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._solver is not None
        denoised = self._denoised(prediction.float(), latents)
        try:
            latents, self._sigma, self._fraction = self._solver.send((latents, denoised))
        except StopIteration as end:
            self._fraction = 1.0
            return end.value.to(self._dtype), denoised
        except ArithmeticError as error:
            raise JobFailed(str(error), code="not_finite") from error
        return latents, denoised

    def _denoised(self, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        kind, sigma = self._levels.prediction_type, self._sigma
        if kind == "epsilon":
            return latents - prediction * sigma
        if kind == "v_prediction":
            return latents / (sigma ** 2 + 1) - prediction * (sigma / math.sqrt(sigma ** 2 + 1))
        return prediction
