"""Samplers by their A1111 names, made of diffusers' schedulers.

Every scheduler is built from the folder's own scheduler config as StableDiffusionPipeline reads it, so beta schedule,
prediction type and timestep spacing are the model's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from diptych.core.checks import LCM_STEPS, TRAIN_TIMESTEPS, check_steps, step_limit
from diptych.core.errors import InvalidRequest
from diptych.core.samplers import NORMAL_ONLY
from diptych.core.specs import ImageSpec

CLASSES: dict[str, str] = {
    "DDPM": "DDPMScheduler",
    "DDIM": "DDIMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "DPM++ SDE": "DPMSolverSDEScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "LCM": "LCMScheduler",
}
# Diffusers imports each class at first use: here, so that no request pays for it.
_SCHEDULERS: dict[str, Any] = {name: getattr(diffusers, class_name) for name, class_name in CLASSES.items()}


class Sampler:
    """One picture's scheduler, from the first noise to the last latents; its random numbers are its own."""

    def __init__(self, scheduler: Any, steps: int, seed: int) -> None:
        """`scheduler` has its timesteps set."""
        self._scheduler = scheduler
        self._generator = torch.Generator("cpu").manual_seed(seed)
        parameters = inspect.signature(scheduler.step).parameters
        self._step_options = {"generator": self._generator} if "generator" in parameters else {}
        self.timesteps: list[float] = [float(t) for t in scheduler.timesteps]
        self.steps = steps
        self.position = 0

    @property
    def timestep(self) -> float:
        return self.timesteps[self.position]

    @property
    def done(self) -> bool:
        return self.position >= len(self.timesteps)

    @property
    def step(self) -> int:
        """Steps done as the user counts them: samplers of second order call the model about twice per step."""
        return self.steps * self.position // len(self.timesteps)

    def start(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Initial noise, drawn on the CPU so that a seed means the same picture on every device."""
        noise = torch.randn(shape, generator=self._generator, dtype=dtype).to(device)
        scaled: torch.Tensor = noise * self._scheduler.init_noise_sigma
        return scaled

    def scale(self, latents: torch.Tensor) -> torch.Tensor:
        """The model's input for the current timestep."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self._scheduler.timesteps[self.position])
        return scaled

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(next latents, predicted final latents)` after one call of the model."""
        timestep = self._scheduler.timesteps[self.position]
        output = self._scheduler.step(prediction, timestep, latents, **self._step_options)
        self.position += 1
        final = getattr(output, "pred_original_sample", getattr(output, "denoised", None))
        if final is None:
            # The multistep solvers keep their predictions of the final latents.
            final = self._scheduler.model_outputs[-1]
        return output.prev_sample, final


class SamplerFactory:
    """Builds samplers for one model.

    Args:
        config: the folder's scheduler config, `_class_name` included.

    Raises:
        InvalidRequest: the config's class is unknown.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        name = str(config.get("_class_name", "PNDMScheduler"))
        base = getattr(diffusers, name, None)
        if base is None or not hasattr(base, "set_timesteps"):
            raise InvalidRequest(f"the model's scheduler {name!r} is unknown", param="model")
        self._config = _as_the_pipeline_reads_it(base.from_config(dict(config)).config)
        self.train_timesteps = int(self._config.get("num_train_timesteps", TRAIN_TIMESTEPS))
        self._lcm_steps = int(self._config.get("original_inference_steps", LCM_STEPS))

    def check(self, spec: ImageSpec) -> None:
        """Raises InvalidRequest when the sampler cannot take so many steps of this model."""
        check_steps(spec, step_limit(spec.sampler, self.train_timesteps, self._lcm_steps))

    def build(self, spec: ImageSpec, seed: int) -> Sampler:
        """A fresh sampler for one picture."""
        scheduler = _SCHEDULERS[spec.sampler].from_config(self._config, **_overrides(spec, seed))
        scheduler.set_timesteps(spec.steps)
        if spec.sampler == "Euler a" and spec.schedule == "karras":
            self._take_karras_sigmas(scheduler, spec.steps)
        return Sampler(scheduler, spec.steps, seed)

    def _take_karras_sigmas(self, scheduler: Any, steps: int) -> None:
        """Diffusers' ancestral Euler has no Karras schedule of its own; the plain Euler's is the same."""
        plain = diffusers.EulerDiscreteScheduler.from_config(
            self._config, use_karras_sigmas=True, use_exponential_sigmas=False, use_beta_sigmas=False)
        plain.set_timesteps(steps)
        scheduler.sigmas, scheduler.timesteps = plain.sigmas, plain.timesteps


def _as_the_pipeline_reads_it(config: Mapping[str, Any]) -> dict[str, Any]:
    """Stable Diffusion's pipeline corrects the timestep offset of old folders."""
    corrected = dict(config)
    if corrected.get("steps_offset", 1) != 1:
        corrected["steps_offset"] = 1
    return corrected


def _overrides(spec: ImageSpec, seed: int) -> dict[str, Any]:
    """What the sampler's name decides, over the folder's config. Latents are not confined to [-1, 1] as pixels are,
    so predictions are never clipped."""
    options: dict[str, Any] = {}
    if spec.sampler in ("DDPM", "DDIM", "LCM"):
        options["clip_sample"] = False
    if spec.sampler not in NORMAL_ONLY and spec.sampler != "Euler a":
        options["use_karras_sigmas"] = spec.schedule == "karras"
        options["use_exponential_sigmas"] = options["use_beta_sigmas"] = False
    if spec.sampler == "DPM++ 2M":
        options["algorithm_type"] = "dpmsolver++"
    if spec.sampler == "DPM++ SDE":
        options["noise_sampler_seed"] = seed
    return options
