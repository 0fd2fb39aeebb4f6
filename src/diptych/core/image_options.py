"""Fields that a picture's spec and the requests that ask for it have in common: each is written once, here or in the
files of its group."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict

MAX_PROMPT = 20_000
"""Characters of one prompt of an image job."""
MAX_SEED = 2**63 - 1
Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple that is read from a list, also where types are strict."""
INPUT_ID = re.compile("sha256:[0-9a-f]{64}")
"""What specs name pictures by: the hash of what was stored of them."""


class IsPicture:
    """Marks a field that names a picture: see `core/picture_refs.py`."""


PictureRef = Annotated[str, Field(min_length=1, description=(
    "base64, a data: URL, artifact:ID, or the sha256:… of an uploaded picture")), IsPicture()]
ModelId = Annotated[str, Field(min_length=1, max_length=300, description="id of a model in the library")]
StyleName = Annotated[str, Field(min_length=1, max_length=200)]


class Options(BaseModel):
    """Base of the groups of fields inside a spec: frozen, unknown fields refused, JSON types as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Reference(NamedTuple):
    """A file that a spec needs beside its model: `kind` is "input" (a picture), "model", or that of a `PartCard`.
    `param` is the field that names it."""

    kind: str
    id: str
    param: str

    @property
    def key(self) -> str:
        """What `RunRequest.files` has it under."""
        return f"{self.kind}:{self.id}"


class SamplingOptions(BaseModel):
    """How the noise is taken away."""

    steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(5.0, ge=1.0, le=50.0, description="guidance scale (CFG); 1 makes a single pass")
    eta: float | None = Field(None, ge=0.0, le=1.0, description="share of the noise that each step puts back")
    s_churn: float | None = Field(None, ge=0.0, le=1000.0, description="noise added before the steps, all together")
    s_tmin: float | None = Field(None, ge=0.0, le=5000.0, description="lowest sigma that is churned")
    s_tmax: float | None = Field(None, ge=0.0, le=5000.0, description="highest sigma that is churned")
    s_noise: float | None = Field(None, ge=0.0, le=2.0, description="scale of the noise that steps add")
    rho: float | None = Field(None, ge=0.1, le=100.0, description="curvature of karras (7) and polyexponential (1)")
    sigma_min: float | None = Field(None, gt=1e-4, le=5000.0, description="lowest sigma; the model's when left out")
    sigma_max: float | None = Field(None, gt=1e-4, le=5000.0, description="highest sigma; the model's when left out")
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="what the model predicts; as its folder says when left out")
    zero_terminal_snr: bool | None = Field(None, description="begin at pure noise; as the folder says when left out")
    guidance_rescale: float = Field(
        0.0, ge=0.0, le=1.0, description="how far guidance is held to the contrast of the prediction without it")


class PictureOptions(BaseModel):
    """What is painted, how large and how often."""

    kind: Literal["image"] = Field("image", description="what to make; pictures so far")
    model: ModelId = "starter"
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, examples=["a red apple on a blue background"])
    negative_prompt: str = Field("", max_length=MAX_PROMPT, description="what to keep out of the picture")
    width: int | None = Field(None, ge=8, le=4096, description="pixels; the model's own size when left out")
    height: int | None = Field(None, ge=8, le=4096, description="pixels; the model's own size when left out")
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description=(
        "of the first picture, the next has one more; -1: one is drawn when the job is accepted"))
    count: int = Field(1, ge=1, le=64, description="pictures to make")
    preview_every: int = Field(0, ge=0, le=1000, description="a preview event every so many steps; 0: none")
    clip_skip: int = Field(1, ge=1, le=24, description="layer of CLIP that is used, counted from the last, which is 1")
    styles: Several[StyleName] = Field((), max_length=16, description="styles put around the prompt, in this order")
    prompt_syntax: Literal["full", "plain"] = Field(
        "full", description="full: the prompt language, see docs/prompt-language.md; plain: prompts are just words")
