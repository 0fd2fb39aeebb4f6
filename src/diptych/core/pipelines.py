"""Models that are painted by diffusers' own pipelines as a whole: what each class takes. Held against the signatures of
diffusers in the tests, so that the gateway can refuse without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOW_EULER = "Flow Match Euler"
"""The sampler of flow matching models (Esser et al. 2024, https://arxiv.org/abs/2403.03206)."""
NOISE_SAMPLERS = ("Euler", "Euler a", "Heun", "LMS", "DPM2", "DPM2 a", "DPM++ 2M", "DPM++ 3M", "DPM++ 2M SDE", "DDIM",
                  "DDPM", "UniPC", "DEIS")
"""Of models that were trained on noise levels."""
NOISE_SCHEDULES = ("normal", "karras", "exponential")
UNSCHEDULED = ("DDIM", "DDPM")
"""Samplers with their own schedule only."""


@dataclass(frozen=True)
class PipelineTraits:
    """`size`: pixels of a side where the folder does not tell. `negative`: it takes a negative prompt. `clip_skip`: it
    has CLIP's layers to choose from. `repaints`: it can start from a picture; `inpaints`: with a mask, too. `packed`:
    two latents a side make one token, which its files do not tell."""

    size: int = 1024
    negative: bool = True
    clip_skip: bool = False
    repaints: bool = False
    inpaints: bool = False
    packed: bool = False


PIPELINES: dict[str, PipelineTraits] = {
    "StableDiffusion3Pipeline": PipelineTraits(clip_skip=True, repaints=True, inpaints=True),
    # Its negative prompt needs a second guidance scale beside the distilled one.
    "FluxPipeline": PipelineTraits(negative=False, repaints=True, inpaints=True, packed=True),
    "Flux2Pipeline": PipelineTraits(negative=False, packed=True),
    "Flux2KleinPipeline": PipelineTraits(negative=False, packed=True),
    "ChromaPipeline": PipelineTraits(packed=True),
    "QwenImagePipeline": PipelineTraits(repaints=True, inpaints=True, packed=True),
    "ZImagePipeline": PipelineTraits(repaints=True, inpaints=True, packed=True),
    "AuraFlowPipeline": PipelineTraits(),
    "CogView3PlusPipeline": PipelineTraits(),
    "CogView4Pipeline": PipelineTraits(),
    "HunyuanDiTPipeline": PipelineTraits(),
    "Kandinsky3Pipeline": PipelineTraits(repaints=True),
    "Lumina2Pipeline": PipelineTraits(),
    "LuminaPipeline": PipelineTraits(),
    "PixArtAlphaPipeline": PipelineTraits(),
    "PixArtSigmaPipeline": PipelineTraits(),
    "SanaPipeline": PipelineTraits(),
}


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is one of flow matching."""
    return "FlowMatch" in str(scheduler.get("_class_name")) or scheduler.get("use_flow_sigmas") is True


def samplers_of(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """The samplers of a model, by the configuration of its scheduler."""
    if not is_flow(scheduler):
        return NOISE_SAMPLERS
    own = {"DPMSolverMultistepScheduler": ("DPM++ 2M",), "UniPCMultistepScheduler": ("UniPC",)}
    return ("Euler", FLOW_EULER, *own.get(str(scheduler.get("_class_name")), ()))
