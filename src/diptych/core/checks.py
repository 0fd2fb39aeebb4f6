"""What an image request must satisfy before any model is touched. Pure: the gateway asks it without torch, the engine
asks it again with what it knows from the model's own files."""

from __future__ import annotations

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_SEED
from diptych.core.painting import stages_of
from diptych.core.pipelines import check_pipeline
from diptych.core.samplers import FLOW_EULER, SAMPLERS
from diptych.core.specs import FinishSpec, ImageSpec, JobSpec

MAX_PIXELS = 4096 * 4096
DEFAULT_MULTIPLE = 8
DEFAULT_SIZE = 512
"""Pixels; the size of Stable Diffusion 1.x, for a card that does not know its model's own."""
TRAIN_TIMESTEPS = 1000
LCM_STEPS = 50
"""Length of the schedule that latent consistency models are distilled on; its samples are picked from it."""

MULTISTEP = frozenset({"DPM++ 2M", "DPM++ 3M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "UniPC", "DEIS",
                       "SA Solver"})


def picture_size(spec: ImageSpec, card: Card) -> tuple[int, int]:
    """`(width, height)` in pixels: the spec's, and the model's own size where it leaves one out."""
    own = card.size or DEFAULT_SIZE
    return spec.width or own, spec.height or own


def picture_seed(spec: ImageSpec, index: int) -> int:
    """Seed of picture `index`: `seed + index`, back to 0 after the largest seed; with a variation, that of the
    variation changes instead."""
    if spec.variation_strength:
        return spec.seed
    return (spec.seed + index) % (MAX_SEED + 1)


def step_limit(sampler: str, train_timesteps: int = TRAIN_TIMESTEPS, lcm_steps: int = LCM_STEPS) -> int:
    """Most steps a sampler can take of a model trained with `train_timesteps` noise levels.

    The usual timestep offset of one puts the last level out of reach: DDPM and DDIM then read past the training
    table, LMS and DPM++ SDE meet one noise level twice; the multistep solvers need one more between the last steps.
    """
    if sampler in ("LCM", "TCD"):
        return min(lcm_steps, train_timesteps)
    if sampler in ("DDPM", "DDIM", "LMS", "DPM++ SDE", "PLMS"):
        return train_timesteps - 1
    if sampler in MULTISTEP:
        return train_timesteps - 2
    return train_timesteps


def check_steps(spec: ImageSpec, limit: int) -> None:
    """Raises InvalidRequest when `spec.steps` is over `limit`."""
    if spec.steps > limit:
        raise InvalidRequest(
            f"steps is {spec.steps}, but sampler {spec.sampler!r} takes at most {limit} with this model", param="steps")


def check_size(width: int, height: int, multiple: int) -> None:
    """Raises InvalidRequest unless both sides are positive multiples of `multiple` and the area is bounded."""
    for name, value in (("width", width), ("height", height)):
        if value < multiple or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise InvalidRequest(
                f"{name} is {value}, but this model needs a multiple of {multiple}, e.g. {near}", param=name)
    if width * height > MAX_PIXELS:
        raise InvalidRequest(f"width x height is {width}x{height}, more than {MAX_PIXELS} pixels", param="width")


def check(spec: JobSpec, card: Card) -> None:
    """Check what can be known from the card alone.

    Raises:
        InvalidRequest: not an image model, a size that is no multiple of `card.multiple` or too large, or more steps
            than the sampler takes, or what the model's family does not know. Names the field, the value and the limit.
    """
    if card.panel != "image":
        raise InvalidRequest(f"model {card.id!r} makes text, not pictures", param="model")
    if isinstance(spec, FinishSpec):
        return
    width, height = picture_size(spec, card)
    check_size(width, height, card.multiple or DEFAULT_MULTIPLE)
    for stage in stages_of(spec):
        check_steps(stage.spec, step_limit(stage.spec.sampler))
    if card.family == "pipeline":
        check_pipeline(spec, card)
    elif spec.sampler == FLOW_EULER:
        raise InvalidRequest(f"sampler {spec.sampler!r} is of flow matching models, which {card.id!r} is not; others: "
                             f"{', '.join(SAMPLERS)}", param="sampler")
    if spec.size_hints is not None and card.family != "sdxl":
        raise InvalidRequest(f"size_hints are what Stable Diffusion XL is told; {card.id!r} does not know them",
                             param="size_hints")
