"""Pictures that pictures are made from: where to start, what to repaint, how to extend. Lengths are pixels of
`init_image` as it stands upright, before it is resized."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Strict, field_validator, model_validator

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import Options, PictureRef, Several
from diptych.core.svg_path import parse_path

MAX_EXTENSION = 2048
MAX_LENGTH = 128
MAX_SHAPES, MAX_POINTS, MAX_PATH_TEXT = 64, 10_000, 20_000
Coordinate = Annotated[float, Field(ge=-100_000, le=100_000)]
Point = Annotated[tuple[Coordinate, Coordinate], Strict(False)]
Units = Literal["fraction", "pixels"]
_UNITS: Units = "fraction"


class Shape(Options):
    """`units`: fractions of the picture's width and height (0 to 1), or pixels; the origin is the upper left corner.
    Shapes are taken in their order: one that erases takes away from those before it."""

    units: Units = Field(_UNITS, description="what the numbers are: fractions of width and height, or pixels")
    erase: bool = Field(False, description="take this shape away from those before it")


class Rectangle(Shape):
    """A rectangle along the picture's sides."""

    kind: Literal["rectangle"]
    x: Coordinate
    y: Coordinate
    width: float = Field(gt=0, le=100_000)
    height: float = Field(gt=0, le=100_000)


class Polygon(Shape):
    """A closed line through these points; what it goes around is inside (winding number not 0)."""

    kind: Literal["polygon"]
    points: Several[Point] = Field(min_length=3, max_length=MAX_POINTS, description="[x, y] of each corner")


class SvgPath(Shape):
    """The `d` of an SVG path: M L H V C S Q T A Z, large or small; parts that are open are closed."""

    kind: Literal["path"]
    d: str = Field(min_length=1, max_length=MAX_PATH_TEXT, examples=["M .2 .2 h .6 v .6 h -.6 z"])
    fill_rule: Literal["nonzero", "evenodd"] = "nonzero"

    @field_validator("d")
    @classmethod
    def _readable(cls, d: str) -> str:
        parse_path(d)
        return d


AnyShape = Annotated[Rectangle | Polygon | SvgPath, Field(discriminator="kind")]


class Mask(Options):
    """What is repainted: where `image` is white (of a picture with transparency: opaque), and inside of `shapes`.

    The mask is made in this order: picture and shapes, `invert`, `grow`, `feather`, `blur`.
    """

    image: PictureRef | None = Field(None, description="white is repainted; of a picture with transparency, what is "
                                                       "opaque; scaled to init_image if its size is another")
    shapes: Several[AnyShape] = Field((), max_length=MAX_SHAPES)
    invert: bool = Field(False, description="repaint what is not masked")
    grow: int = Field(0, ge=-MAX_LENGTH, le=MAX_LENGTH, description="pixels the mask is grown by; negative: shrunk")
    feather: int = Field(0, ge=0, le=MAX_LENGTH, description="pixels around the mask over which the original fades in")
    blur: float = Field(4.0, ge=0.0, le=64.0, description="sigma in pixels of the Gaussian that softens the mask")
    fill: Literal["original", "fill", "noise", "nothing"] = Field("original", description=(
        "what the masked part begins with: the picture, colours of its surroundings, noise, or empty latents"))
    region: Literal["whole", "masked"] = Field("whole", description=(
        "masked: only the mask's surroundings are painted, at full size, and put back into the picture"))
    padding: int = Field(32, ge=0, le=1024, description="pixels around the mask that are painted with region masked")

    @model_validator(mode="after")
    def _something(self) -> Mask:
        if self.image is None and not self.shapes:
            raise ValueError("a mask needs an image or shapes")
        return self


class Outpaint(Options):
    """Pixels by which the picture is extended, each side on its own."""

    left: int = Field(0, ge=0, le=MAX_EXTENSION)
    right: int = Field(0, ge=0, le=MAX_EXTENSION)
    top: int = Field(0, ge=0, le=MAX_EXTENSION)
    bottom: int = Field(0, ge=0, le=MAX_EXTENSION)
    overlap: int = Field(8, ge=0, le=MAX_LENGTH, description=(
        "pixels of the original beside the new part that are repainted, fading into the original"))
    fill: Literal["edge", "noise", "nothing"] = Field(
        "edge", description="what the new part begins with: the colours at the edge, noise, or empty latents")

    @model_validator(mode="after")
    def _something(self) -> Outpaint:
        if not (self.left or self.right or self.top or self.bottom):
            raise ValueError("outpaint needs left, right, top or bottom")
        return self


class CanvasOptions(BaseModel):
    """The picture that a picture is made from."""

    init_image: PictureRef | None = Field(None, description=(
        "the picture to start from: base64, a data: URL, artifact:ID, or the sha256:… of an uploaded picture"))
    strength: float = Field(0.75, ge=0.0, le=1.0, description=(
        "how far from init_image the result may go: the share of the steps that is made; 1 keeps nothing of it"))
    resize_mode: Literal["resize", "crop", "fill"] = Field("resize", description=(
        "how init_image gets another shape: stretched, cut off at two sides, or with its edges drawn out"))
    mask: Mask | None = Field(None, description="what of init_image is repainted")
    outpaint: Outpaint | None = Field(None, description="how init_image is extended")
    color_correction: bool = Field(False, description="give the result the colours of init_image")

    @model_validator(mode="after")
    def _canvas(self) -> CanvasOptions:
        """Raises InvalidRequest, which names the field."""
        if self.init_image is None:
            for name in ("mask", "outpaint", "color_correction"):
                if getattr(self, name):
                    raise InvalidRequest(f"{name} needs an init_image", param=name)
        if self.mask and self.outpaint:
            _check_both(self.mask, self.outpaint)
        return self


def _check_both(mask: Mask, outpaint: Outpaint) -> None:
    if mask.region == "masked":
        raise InvalidRequest("mask.region is 'masked', but outpaint paints the whole picture: leave it out, or make it "
                             "'whole'", param="mask.region")
    if {mask.fill, outpaint.fill} & {"noise", "nothing"} and mask.fill != outpaint.fill:
        raise InvalidRequest(
            f"mask.fill is {mask.fill!r} and outpaint.fill is {outpaint.fill!r}; noise and nothing hold for all that "
            "is repainted: give both the same", param="outpaint.fill")
