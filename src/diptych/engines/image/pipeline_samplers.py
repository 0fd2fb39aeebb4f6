"""Schedulers of diffusers for its own pipelines, by the names of samplers."""

from __future__ import annotations

from typing import Any

import diffusers

from diptych.core.pipelines import is_flow
from diptych.core.samplers import FLOW_EULER
from diptych.engines.image.samplers.factory import SCHEDULERS

OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}), "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}), "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {})}
"""Those that the batcher solves itself."""


def scheduler_for(folder: Any, sampler: str, schedule: str) -> Any:
    """A scheduler for one picture.

    Args:
        folder: the scheduler of the model's folder.
        sampler, schedule: canonical names; of `samplers_of` this model.
    """
    config = dict(folder.config)
    if is_flow(config):
        if sampler not in ("Euler", FLOW_EULER) or type(folder).__name__ == "FlowMatchEulerDiscreteScheduler":
            return type(folder).from_config(config)
        return diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=config["num_train_timesteps"], shift=config.get("flow_shift") or 1.0)
    name, options = {**SCHEDULERS, **OWN}[sampler]
    chosen = {"use_karras_sigmas": schedule == "karras", "use_exponential_sigmas": schedule == "exponential"}
    return getattr(diffusers, name).from_config({**config, **options, **chosen})
