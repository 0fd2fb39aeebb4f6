"""What the batcher needs from a sampler, and the one that wraps a scheduler of diffusers."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import torch


class Sampler(ABC):
    """One picture's way from the first noise to the last latents; its random numbers are its own.

    With `skip`, so many of the steps count as made: it starts from latents of a picture, not from noise alone.
    """

    def __init__(self, steps: int, seed: int, skip: int = 0) -> None:
        self.steps, self.skip = steps, skip
        self._generator = torch.Generator("cpu").manual_seed(seed)

    @property
    @abstractmethod
    def timestep(self) -> float:
        """What the model is told about the noise of its next input."""

    @property
    @abstractmethod
    def done(self) -> bool: ...

    @property
    @abstractmethod
    def step(self) -> int:
        """Steps done as the user counts them, those skipped included: samplers of second order call the model about
        twice per step."""

    def draw(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Standard normal numbers, drawn on the CPU, so that a seed means the same picture on every device."""
        return torch.randn(shape, generator=self._generator, dtype=dtype).to(device)

    @abstractmethod
    def start(self, noise: torch.Tensor, origin: torch.Tensor | None = None) -> torch.Tensor:
        """The first latents: `noise` alone, or latents `origin` with as much noise as the steps skipped leave."""

    @abstractmethod
    def noised(self, origin: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Latents `origin` with as much noise as those have that the model sees next; without any at the end."""

    @abstractmethod
    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """The model's input for the current timestep."""

    @abstractmethod
    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(next latents, predicted final latents)` after one call of the model."""

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._generator, dtype=like.dtype).to(like.device)


class SchedulerSampler(Sampler):
    """A scheduler of diffusers. `options` go to each of its steps; `noise_scale` scales the noise that a step adds."""

    def __init__(
        self, scheduler: Any, steps: int, seed: int, options: dict[str, float], noise_scale: float | None = None,
        skip: int = 0,
    ) -> None:
        """`scheduler` has its timesteps set."""
        super().__init__(steps, seed, skip)
        self._scheduler = scheduler
        self._noise_scale = noise_scale
        parameters = inspect.signature(scheduler.step).parameters
        self._options: dict[str, Any] = dict(options)
        if "generator" in parameters:
            self._options["generator"] = self._generator
        if hasattr(scheduler, "set_begin_index"):
            # Without it, two equal timesteps at the beginning make the scheduler begin at the second.
            scheduler.set_begin_index(skip * scheduler.order)
        self._timesteps: list[float] = [float(t) for t in scheduler.timesteps]
        self._position = skip * int(scheduler.order)

    @property
    def timestep(self) -> float:
        return self._timesteps[self._position]

    @property
    def done(self) -> bool:
        return self._position >= len(self._timesteps)

    @property
    def step(self) -> int:
        return self.steps * self._position // len(self._timesteps)

    def start(self, noise: torch.Tensor, origin: torch.Tensor | None = None) -> torch.Tensor:
        if origin is not None:
            return self.noised(origin, noise)
        scaled: torch.Tensor = noise * self._scheduler.init_noise_sigma
        return scaled

    def noised(self, origin: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if self.done:
            return origin
        here = self._scheduler.timesteps[self._position:self._position + 1]
        latents: torch.Tensor = self._scheduler.add_noise(origin, noise, here)
        return latents

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self._scheduler.timesteps[self._position])
        return scaled

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        timestep = self._scheduler.timesteps[self._position]
        options = self._options
        if self._noise_scale is not None:
            options = {**options, "variance_noise": self._noise(latents) * self._noise_scale}
        output = self._scheduler.step(prediction, timestep, latents, **options)
        self._position += 1
        final = getattr(output, "pred_original_sample", getattr(output, "denoised", None))
        return output.prev_sample, self._final(prediction, timestep, latents) if final is None else final

    def _final(self, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The predicted final latents of a scheduler that does not tell them."""
        scheduler = self._scheduler
        index = min(int(timestep), len(scheduler.alphas_cumprod) - 1)
        alpha = float(scheduler.alphas_cumprod[index])
        kind = scheduler.config.prediction_type
        if kind == "sample":
            return prediction
        signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
        if kind == "v_prediction":
            return latents * signal - prediction * noise
        return (latents - prediction * noise) / max(signal, 1e-4)
