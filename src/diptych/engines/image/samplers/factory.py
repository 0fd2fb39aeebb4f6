"""Builds each picture's sampler.

Every scheduler is built from the folder's own scheduler config as StableDiffusionPipeline reads it, so beta schedule,
prediction type and timestep spacing are the model's, unless the request says otherwise.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch

from diptych.core.checks import LCM_STEPS, TRAIN_TIMESTEPS, check_steps, step_limit
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.samplers import schedules, solvers
from diptych.engines.image.samplers.base import Sampler, SchedulerSampler
from diptych.engines.image.samplers.schedules import SPACING, Bounds
from diptych.engines.image.samplers.solver import Levels, SolverSampler, training_sigmas
from diptych.engines.image.samplers.solvers import Randomness, Solver

SDE = {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}
UNCLIPPED = {"clip_sample": False}
# Latents are not confined to [-1, 1] as pixels are, so predictions are never clipped.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", UNCLIPPED),
    "DDIM": ("DDIMScheduler", UNCLIPPED),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Heun": ("DPMSolverMultistepScheduler", {**SDE, "solver_type": "heun"}),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {**SDE, "solver_order": 3}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "SA Solver": ("SASolverScheduler", {"algorithm_type": "data_prediction"}),
    "LCM": ("LCMScheduler", UNCLIPPED),
    "TCD": ("TCDScheduler", UNCLIPPED),
}
ON_LEVELS: dict[str, Callable[[torch.Tensor, list[float], Randomness], Solver]] = {
    "Euler": solvers.euler, "Euler a": solvers.euler_ancestral, "Heun": solvers.heun, "DPM2": solvers.dpm2,
    "DPM2 a": solvers.dpm2_ancestral, "DPM++ 2S a": solvers.dpmpp_2s_ancestral,
}
"""Solvers of our own that follow a schedule."""
ETA = {"DPM fast": 0.0, "DPM adaptive": 0.0}
"""Solvers whose usual eta is not 1."""
RANDOMNESS = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
# Diffusers imports each class at first use: here, so that no request pays for it.
_CLASSES: dict[str, Any] = {name: getattr(diffusers, found) for name, (found, _) in SCHEDULERS.items()}


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
        plain = diffusers.EulerDiscreteScheduler.from_config({**self._config, "rescale_betas_zero_snr": False})
        self._lowest, self._highest = (float(sigma) for sigma in training_sigmas(plain)[[0, -1]])

    def check(self, spec: ImageSpec) -> None:
        """Raises InvalidRequest when this model cannot be sampled so: too many steps, sigmas outside of its range, or
        zero terminal SNR where it predicts noise."""
        check_steps(spec, step_limit(spec.sampler, self.train_timesteps, self._lcm_steps))
        low, high = spec.sigma_min, spec.sigma_max
        if low is not None and low >= (high or self._highest):
            raise InvalidRequest(
                f"sigma_min is {low:g}, not less than this model's {self._highest:g}", param="sigma_min")
        if high is not None and high <= (low or self._lowest):
            raise InvalidRequest(
                f"sigma_max is {high:g}, not more than this model's {self._lowest:g}", param="sigma_max")
        kind = spec.prediction_type or self._config.get("prediction_type", "epsilon")
        if spec.zero_terminal_snr and kind == "epsilon":
            raise InvalidRequest("zero_terminal_snr is true, but this model predicts noise (epsilon), and from noise "
                                 "alone nothing can be told; v_prediction models can", param="zero_terminal_snr")

    def build(self, spec: ImageSpec, seed: int, skip: int = 0) -> Sampler:
        """A fresh sampler for one picture, for which `skip` of the steps count as made."""
        if spec.sampler not in SCHEDULERS:
            return self._solver(spec, seed, skip)
        _, options = SCHEDULERS[spec.sampler]
        if spec.sampler == "DPM++ SDE":
            options = {**options, "noise_sampler_seed": seed}
        scheduler = self._scheduler(_CLASSES[spec.sampler], spec, options)
        step_options: dict[str, float] = {}
        if spec.eta is not None and spec.sampler in ("DDIM", "TCD"):
            step_options["eta"] = spec.eta
        scale = None
        if spec.s_noise is not None and spec.sampler == "DPM++ SDE":
            step_options["s_noise"] = spec.s_noise
        elif spec.s_noise is not None and options.get("algorithm_type") == SDE["algorithm_type"]:
            scale = spec.s_noise
        return SchedulerSampler(scheduler, spec.steps, seed, step_options, scale, skip)

    def _scheduler(self, kind: Any, spec: ImageSpec, options: Mapping[str, Any]) -> Any:
        """A scheduler of this class with the spec's schedule and its timesteps set."""
        known = inspect.signature(kind.__init__).parameters
        chosen = {name: value for name, value in _overrides(spec).items() if name in known}
        config = {**self._config, **options, **chosen}
        scheduler = kind.from_config(config)
        if spec.schedule != "normal" and spec.schedule not in SPACING:
            # The places where these classes take sigmas from outside, with all their own handling of them: for Karras'
            # they round the timesteps, for exponential ones they do not.
            hook = "_convert_to_karras" if spec.schedule == "karras" else "_convert_to_exponential"
            levels = functools.partial(_levels, spec, training_sigmas(scheduler))
            setattr(scheduler, hook, levels)
        scheduler.set_timesteps(spec.steps)
        return scheduler

    def _solver(self, spec: ImageSpec, seed: int, skip: int) -> Sampler:
        levels = Levels(self._scheduler(diffusers.EulerDiscreteScheduler, spec, {"final_sigmas_type": "zero"}))
        random = {name: value for name in RANDOMNESS if (value := getattr(spec, name)) is not None}
        random.setdefault("eta", ETA.get(spec.sampler, 1.0))
        initial = None
        sigmas, steps = levels.sigmas[skip:], spec.steps - skip
        solve: Callable[[torch.Tensor, Randomness], Solver]
        if spec.sampler in ON_LEVELS:
            follow = ON_LEVELS[spec.sampler]
            solve = lambda x, given: follow(x, sigmas, given)  # noqa: E731
        elif spec.sampler == "Restart":
            pairs = schedules.restart_steps(steps, Bounds(sigmas[0], sigmas[-2], spec.rho))
            solve = lambda x, given: solvers.restart(x, pairs, given)  # noqa: E731
        else:
            high, low = spec.sigma_max or levels.high, spec.sigma_min or levels.low
            initial = high if levels.spacing in ("linspace", "trailing") else (high ** 2 + 1) ** 0.5
            first = sigmas[0] if skip else high
            if spec.sampler == "DPM fast":
                solve = lambda x, given: solvers.dpm_fast(x, first, low, steps, given)  # noqa: E731
            else:
                solve = lambda x, given: solvers.dpm_adaptive(x, first, low, given)  # noqa: E731
        return SolverSampler(levels, spec.steps, seed, solve, random, initial, skip)


def _levels(
    spec: ImageSpec, table: np.ndarray, in_sigmas: Any, num_inference_steps: int | None = None
) -> np.ndarray:
    """Stands in for a scheduler's own `_convert_to_…`. `in_sigmas`: those it would have taken, descending."""
    high, low = spec.sigma_max or float(in_sigmas[0]), spec.sigma_min or float(in_sigmas[-1])
    return schedules.sigmas(spec.schedule, spec.steps, Bounds(high, low, spec.rho), table)


def _as_the_pipeline_reads_it(config: Mapping[str, Any]) -> dict[str, Any]:
    """Stable Diffusion's pipeline corrects the timestep offset of old folders."""
    corrected = dict(config)
    if corrected.get("steps_offset", 1) != 1:
        corrected["steps_offset"] = 1
    return corrected


def _overrides(spec: ImageSpec) -> dict[str, Any]:
    """What the request decides, over the folder's config."""
    options: dict[str, Any] = {"use_beta_sigmas": False, "use_lu_lambdas": False}
    options["use_karras_sigmas"] = spec.schedule == "karras"
    options["use_exponential_sigmas"] = spec.schedule not in ("normal", "karras", *SPACING)
    if spec.schedule in SPACING:
        options["timestep_spacing"] = SPACING[spec.schedule]
    if spec.prediction_type is not None:
        options["prediction_type"] = spec.prediction_type
    if spec.zero_terminal_snr is not None:
        options["rescale_betas_zero_snr"] = spec.zero_terminal_snr
    return options
