"""Models that are painted by diffusers' own pipelines as a whole: what each class takes. Held against the signatures of
diffusers in the tests, so that the gateway can refuse without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.samplers import FLOW_EULER
from diptych.core.specs import ImageSpec

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

HONOURED = {"kind", "model", "prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "schedule",
            "seed", "count", "preview_every", "clip_skip", "styles", "prompt_syntax", "resolved", "init_image",
            "strength", "resize_mode", "mask", "outpaint", "color_correction", "finish", "nsfw"}
"""Fields of a spec that any pipeline follows, or that are checked one by one."""
NEUTRAL: dict[str, Any] = {"s_churn": 0.0, "s_tmin": 0.0, "s_noise": 1.0}
"""Values that change nothing."""


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is one of flow matching."""
    return "FlowMatch" in str(scheduler.get("_class_name")) or scheduler.get("use_flow_sigmas") is True


def samplers_of(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """The samplers of a model, by the configuration of its scheduler."""
    if not is_flow(scheduler):
        return NOISE_SAMPLERS
    own = {"DPMSolverMultistepScheduler": ("DPM++ 2M",), "UniPCMultistepScheduler": ("UniPC",)}
    return ("Euler", FLOW_EULER, *own.get(str(scheduler.get("_class_name")), ()))


def check_pipeline(spec: ImageSpec, card: Card) -> None:
    """What a request asks of such a model.

    Raises:
        InvalidRequest: a field that the family has no use for; names it.
    """
    name = card.architecture or ""
    traits = PIPELINES.get(name, PipelineTraits())
    _check_sampler(spec, card)
    fields = type(spec).model_fields
    for field in spec.model_fields_set - HONOURED:
        value = getattr(spec, field)
        if value not in (fields[field].get_default(call_default_factory=True), NEUTRAL.get(field)):
            raise InvalidRequest(
                f"{field} cannot be used with this model: {name} is painted by its own pipeline, which does not know "
                "it", param=field)
    if any(stage.kind == "detail" for stage in spec.finish):
        raise InvalidRequest(f"finish has a stage that paints parts again, which {name} cannot; leave detail out",
                             param="finish")
    negatives = (spec.negative_prompt, *(prompts.negative_prompt for prompts in spec.resolved))
    if not traits.negative and any(text.strip() for text in negatives):
        raise InvalidRequest(f"negative_prompt is given, but {name} has none; leave it out", param="negative_prompt")
    if spec.clip_skip > 1 and not traits.clip_skip:
        raise InvalidRequest(
            f"clip_skip is {spec.clip_skip}, but {name} has no layers to choose from", param="clip_skip")
    if spec.init_image is not None and not traits.repaints:
        raise InvalidRequest(f"init_image is given, but {name} cannot start from a picture", param="init_image")
    for field in ("mask", "outpaint"):
        if getattr(spec, field) is not None and not traits.inpaints:
            raise InvalidRequest(f"{field} is given, but {name} cannot repaint a part of a picture", param=field)


def _check_sampler(spec: ImageSpec, card: Card) -> None:
    samplers = card.samplers or ("Euler", FLOW_EULER)
    if spec.sampler not in samplers:
        raise InvalidRequest(f"sampler is {spec.sampler!r}, but this model has {', '.join(samplers)}", param="sampler")
    schedules = NOISE_SCHEDULES if FLOW_EULER not in samplers and spec.sampler not in UNSCHEDULED else ("normal",)
    if spec.schedule not in schedules:
        raise InvalidRequest(f"schedule is {spec.schedule!r}, but sampler {spec.sampler!r} has {', '.join(schedules)} "
                             "with this model", param="schedule")
