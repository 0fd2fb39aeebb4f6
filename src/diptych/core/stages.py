"""How a picture is denoised beyond one pass from noise: other first noise, several passes, another model at the end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_PROMPT, MAX_SEED, Options, Several

LATENT_UPSCALERS = ("latent", "latent bicubic", "latent nearest", "latent antialiased", "latent bicubic antialiased")
"""Upscalers that work on latents, by the names that A1111 gives them, in small letters."""
BUILT_IN_UPSCALERS = (*LATENT_UPSCALERS, "lanczos", "nearest")


class Hires(Options):
    """A second pass over the enlarged picture. What is left out is as in the first pass."""

    scale: float = Field(2.0, gt=1.0, le=4.0, description="how much larger each side becomes")
    width: int | None = Field(None, ge=8, le=4096, description="pixels, instead of scale; together with height")
    height: int | None = Field(None, ge=8, le=4096, description="pixels, instead of scale; together with width")
    upscaler: str = Field("latent", min_length=1, max_length=300, description=(
        f"{', '.join(BUILT_IN_UPSCALERS)}, or the id of an upscaler of the library; the latent ones enlarge the "
        "latents, the others the decoded picture"))
    steps: int | None = Field(None, ge=1, le=1000, description="of the second pass, of which `strength` is made")
    strength: float = Field(0.7, gt=0.0, le=1.0, description="how far the second pass may go from the first's result")
    guidance: float | None = Field(None, ge=1.0, le=50.0)
    sampler: str | None = Field(None, max_length=100)
    schedule: str | None = Field(None, max_length=100)
    prompt: str | None = Field(None, min_length=1, max_length=MAX_PROMPT)
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)


class Refiner(Options):
    """A second model that takes over the latents."""

    model: str = Field(min_length=1, max_length=300, description="id of an image model with the same kind of latents")
    switch_at: float = Field(0.8, gt=0.0, lt=1.0, description="share of the steps after which it takes over")


class StageOptions(BaseModel):
    """See the classes above."""

    variation_seed: int = Field(0, ge=0, le=MAX_SEED, description="of the noise that is mixed in, the next picture has "
                                                                  "one more")
    variation_strength: float = Field(0.0, ge=0.0, le=1.0, description=(
        "how much of the first noise is the variation's; above 0 all pictures have the same seed"))
    strength_schedule: Several[Annotated[float, Field(ge=0.0, le=1.0)]] = Field((), max_length=1000, description=(
        "how free each step is from init_image, evenly spread over the steps: 1 as without it, 0 holds to it"))
    tiling: Literal["none", "both", "x", "y"] = Field("none", description="sides that continue at the opposite one")
    hires: Hires | None = None
    refiner: Refiner | None = None


def check_stages(options: Any) -> None:
    """Fields of a spec that exclude each other. Raises InvalidRequest."""
    hires = options.hires
    if hires is not None and options.init_image is not None:
        raise InvalidRequest("hires is the second pass of a picture made from its prompt alone; with init_image, give "
                             "width and height instead", param="hires")
    if hires is not None and (hires.width is None) != (hires.height is None):
        raise InvalidRequest("hires.width and hires.height go together; give both, or scale", param="hires.width")
    if options.strength_schedule and options.init_image is None:
        raise InvalidRequest("strength_schedule needs an init_image", param="strength_schedule")
