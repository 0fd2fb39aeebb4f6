"""The scheduler of diffusers that each sampler is held against, configured as diffusers' documentation says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

from diptych.core.specs import ImageSpec

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Heun": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "SA Solver": ("SASolverScheduler", {}),
    "LCM": ("LCMScheduler", {"clip_sample": False}),
    "TCD": ("TCDScheduler", {"clip_sample": False}),
}
SPACINGS = {"uniform": "linspace", "ddim uniform": "leading", "trailing": "trailing"}


def scheduler_for(spec: ImageSpec, config: Mapping[str, Any]) -> Any:
    """Diffusers' scheduler for this spec, from the folder's config."""
    name, options = NATIVE[spec.sampler]
    options = dict(options)
    if spec.schedule in SPACINGS:
        options["timestep_spacing"] = SPACINGS[spec.schedule]
    elif spec.schedule != "normal":
        options[f"use_{spec.schedule}_sigmas"] = True
    if spec.sampler == "DPM++ SDE":
        options["noise_sampler_seed"] = spec.seed
    if spec.prediction_type:
        options["prediction_type"] = spec.prediction_type
    if spec.zero_terminal_snr:
        options["rescale_betas_zero_snr"] = True
    if spec.sampler == "Euler a" and spec.schedule in ("karras", "exponential", "beta"):
        return _ancestral(config, options)
    return getattr(diffusers, name).from_config(config, **options)


def _ancestral(config: Mapping[str, Any], options: dict[str, Any]) -> Any:
    """Diffusers has ancestral Euler without these schedules: the same class with the plain Euler's sigmas put in."""
    class Ancestral(diffusers.EulerAncestralDiscreteScheduler):  # type: ignore[misc]
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(num_inference_steps, device)
            other = diffusers.EulerDiscreteScheduler.from_config(config, **options)
            other.set_timesteps(num_inference_steps, device)
            self.sigmas, self.timesteps = other.sigmas, other.timesteps

    return Ancestral.from_config(config)
