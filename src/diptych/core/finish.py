"""What is done with a picture after it was painted, or with any picture that is sent: the stages of `finish`, in their
order, and the check for nudity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_PROMPT, Options, PictureRef, Reference, Several

RESAMPLERS = ("nearest", "bilinear", "bicubic", "lanczos")
"""Upscalers that need no model: Pillow's filters."""
LATENT_UPSCALERS = ("latent", "latent (nearest)", "latent (nearest-exact)", "latent (bicubic)",
                    "latent (bicubic antialiased)", "latent (antialiased)")
"""A1111's names of ways to enlarge latents. They work while a picture is painted, never after it."""
MAX_PAYLOAD = 32
"""Bytes of an invisible watermark."""
MAX_STAGES, MAX_BOXES = 8, 16
NsfwAction = Literal["off", "blur", "refuse"]
NSFW_ORDER: tuple[NsfwAction, ...] = ("off", "blur", "refuse")
"""From the least strict."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
FileName = Annotated[str, Field(min_length=1, max_length=300)]


class Upscale(Options):
    """Make the picture larger, by a model or by a filter, to any size."""

    kind: Literal["upscale"]
    model: FileName = Field("lanczos", description=(
        f"{', '.join(RESAMPLERS)}, or the id of an upscaler, e.g. realesrgan-x4plus"))
    factor: float = Field(2.0, ge=0.125, le=16.0, description="of width and height, where these are left out")
    width: int | None = Field(None, ge=1, le=16_384, description="pixels; in proportion when only height is given")
    height: int | None = Field(None, ge=1, le=16_384, description="pixels; in proportion when only width is given")

    @model_validator(mode="after")
    def _name(self) -> Upscale:
        if self.model.lower() in LATENT_UPSCALERS:
            raise ValueError(f"{self.model!r} enlarges latents, which a finished picture has no more: it is for hires; "
                             f"take {', '.join(RESAMPLERS)} or an upscaler's id here")
        return self

    @property
    def is_filter(self) -> bool:
        return self.model in RESAMPLERS

    def size(self, width: int, height: int) -> tuple[int, int]:
        """`(width, height)` in pixels that a picture of this size becomes; one pixel a side at least."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        factor = self.factor
        if self.width is not None:
            factor = self.width / width
        elif self.height is not None:
            factor = self.height / height
        return self.width or max(1, round(width * factor)), self.height or max(1, round(height * factor))


class Box(Options):
    """A part of the picture, in shares of its width and height, from its left upper corner."""

    x: Share
    y: Share
    width: float = Field(gt=0.0, le=1.0)
    height: float = Field(gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _inside(self) -> Box:
        if self.x >= 1.0 or self.y >= 1.0:
            raise ValueError("the box begins outside of the picture")
        return self


class Detail(Options):
    """Paint parts of the picture again, each at the model's own size, and put them back."""

    kind: Literal["detail"]
    detect: Literal["face"] | None = Field(None, description="find the parts: face")
    boxes: Several[Box] = Field((), max_length=MAX_BOXES, description="the parts, in shares of width and height")
    mask: PictureRef | None = Field(None, description="the parts are where this picture is white")
    prompt: str | None = Field(None, min_length=1, max_length=MAX_PROMPT, description="the picture's when left out")
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT, description="the picture's when left out")
    strength: float = Field(0.4, gt=0.0, le=1.0, description="how far a part may change")
    steps: int | None = Field(None, ge=1, le=1000, description="the picture's when left out")
    padding: float = Field(0.25, ge=0.0, le=2.0, description="of a part's larger side, painted with it")
    feather: float = Field(0.1, ge=0.0, le=0.5, description="of a part's larger side, over which it fades in")
    confidence: float = Field(0.4, ge=0.0, le=1.0, description="of the detector, from which on a face counts")
    most: int = Field(8, ge=1, le=MAX_BOXES, description="parts, the largest first")

    @model_validator(mode="after")
    def _where(self) -> Detail:
        if (self.detect is not None) + bool(self.boxes) + (self.mask is not None) != 1:
            raise ValueError("give one of detect, boxes and mask")
        return self


class Background(Options):
    """Take the background away: the picture becomes transparent there."""

    kind: Literal["background"]
    model: FileName = Field("u2net", description="id of an ONNX file that finds what is in front, e.g. u2net")


Position = Literal["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right",
                   "tiled"]


class Watermark(Options):
    """A text or a picture over the picture, for all to see."""

    kind: Literal["watermark"]
    text: str | None = Field(None, min_length=1, max_length=200)
    picture: PictureRef | None = Field(None, description="its transparency counts")
    position: Position = "bottom-right"
    opacity: float = Field(0.5, gt=0.0, le=1.0)
    size: float = Field(0.25, gt=0.0, le=1.0, description="of the picture's width")

    @model_validator(mode="after")
    def _one(self) -> Watermark:
        if (self.text is None) == (self.picture is None):
            raise ValueError("give one of text and picture")
        return self


class InvisibleMark(Options):
    """A few letters in the picture that nobody sees and `diptych watermark` reads."""

    kind: Literal["invisible"]
    payload: str = Field("diptych", min_length=1, max_length=MAX_PAYLOAD, description="at most 32 bytes in UTF-8")

    @model_validator(mode="after")
    def _fits(self) -> InvisibleMark:
        try:
            size = len(self.payload.encode())
        except UnicodeEncodeError:
            raise ValueError("payload is not text") from None
        if size > MAX_PAYLOAD:
            raise ValueError(f"payload has {size} bytes in UTF-8, at most {MAX_PAYLOAD} fit")
        return self


FinishStage = Annotated[Upscale | Detail | Background | Watermark | InvisibleMark, Field(discriminator="kind")]


class FinishOptions(BaseModel):
    """What is done with the picture after it was painted."""

    finish: Several[FinishStage] = Field((), max_length=MAX_STAGES, description=(
        "done with the finished picture in this order: upscale, detail, background, watermark, invisible; see "
        "docs/finish.md"))
    nsfw: NsfwAction = Field("off", description=(
        "what happens to a picture in which nudity is found: off, it is not looked for; blur; refuse. There are no "
        "previews with blur and refuse"))

    @model_validator(mode="after")
    def _finish(self) -> FinishOptions:
        check_order(self.finish)
        return self


def check_order(stages: Sequence[FinishStage]) -> None:
    """Raises InvalidRequest where a mark would be spoiled by a stage after it."""
    marked = False
    for place, stage in enumerate(stages):
        if marked:
            raise InvalidRequest(
                f"finish[{place}] comes after the invisible mark, which it would spoil: put the mark last",
                param=f"finish[{place}]")
        marked = isinstance(stage, InvisibleMark)


def finish_references(stages: Sequence[FinishStage]) -> Iterator[Reference]:
    """The files that stages need."""
    for place, stage in enumerate(stages):
        param = f"finish[{place}]"
        if isinstance(stage, Upscale) and not stage.is_filter:
            yield Reference("upscaler", stage.model, f"{param}.model")
        elif isinstance(stage, Background):
            yield Reference("network", stage.model, f"{param}.model")
        elif isinstance(stage, Detail) and stage.mask is not None:
            yield Reference("input", stage.mask, f"{param}.mask")
        elif isinstance(stage, Watermark) and stage.picture is not None:
            yield Reference("input", stage.picture, f"{param}.picture")


def stricter(one: NsfwAction, other: NsfwAction) -> NsfwAction:
    """The stricter of two."""
    return max(one, other, key=NSFW_ORDER.index)
