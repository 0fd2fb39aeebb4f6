"""Pictures that guide how a picture is laid out: ControlNets, T2I-Adapters and IP-Adapters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import Options, PictureRef, Reference, Several
from diptych.core.preprocessors import PREPROCESSORS, parse_preprocessor, thresholds

MAX_CONTROLS = 8
ControlKind = Literal["controlnet", "t2i_adapter", "ip_adapter"]
ControlMode = Literal["balanced", "prompt", "control"]
ResizeMode = Literal["resize", "crop", "fill"]
_EXAMPLE: dict[str, Any] = {"model": "starter-canny", "image": "artifact:8c0c9d1e2f3a4b5c6d7e8f90a1b2c3d4",
            "preprocessor": "canny", "weight": 1.0}


class Preprocessing(Options):
    """How a picture becomes a control map."""

    preprocessor: str = Field("none", max_length=100, description=f"one of {', '.join(PREPROCESSORS)}")
    threshold_a: float | None = Field(None, description="the preprocessor's first number; its own when left out")
    threshold_b: float | None = Field(None, description="the preprocessor's second number; its own when left out")
    pixel_perfect: bool | None = Field(None, description=(
        "work at the size of the picture that is made; so it is when left out, unless processor_res is given"))
    processor_res: int | None = Field(None, ge=16, le=4096, description=(
        "pixels of the shorter side at which the preprocessor works"))
    resize_mode: ResizeMode = Field("resize", description=(
        "how a map of another shape is fitted: stretched, cut off at two sides, or with borders"))

    @field_validator("preprocessor", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_preprocessor(value)
        except InvalidRequest as error:
            raise ValueError(error.message) from None

    @model_validator(mode="after")
    def _numbers(self) -> Preprocessing:
        try:
            thresholds(self.preprocessor, self.threshold_a, self.threshold_b)
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        if self.pixel_perfect and self.processor_res is not None:
            raise ValueError(
                f"processor_res is {self.processor_res}, but with pixel_perfect the size is that of the picture: give "
                "one of the two")
        if self.pixel_perfect is False and self.processor_res is None:
            raise ValueError("pixel_perfect is false: processor_res has to say at which size to work, e.g. 512")
        return self


class Control(Preprocessing):
    """One unit of control. It counts from the share `start` of the steps to the share `end`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: str = Field(min_length=1, max_length=300, description="id of a ControlNet or adapter in the library")
    kind: ControlKind = Field("controlnet", description="what the model is")
    image: PictureRef = Field(description="the picture that guides")
    image_encoder: str = Field("image_encoder", min_length=1, max_length=300, description=(
        "of an IP-Adapter: id of the CLIP vision model in the library that it reads the picture with"))
    weight: float = Field(1.0, ge=-1.0, le=2.0, description="strength; 0: none")
    start: float = Field(0.0, ge=0.0, le=1.0, description="share of the steps before it counts")
    end: float = Field(1.0, ge=0.0, le=1.0, description="share of the steps after which it counts no more")
    control_mode: ControlMode = Field("balanced", description=(
        "which is more important; prompt: the control is weaker in the finer layers; control: so it is, and only for "
        "the prompt, not for the negative one, so that guidance strengthens it. Of ControlNets only"))

    @model_validator(mode="after")
    def _whole(self) -> Control:
        if self.start >= self.end:
            raise ValueError(f"start is {self.start:g}, not before end, {self.end:g}")
        if self.kind != "controlnet" and self.control_mode != "balanced":
            raise ValueError(
                f"control_mode is {self.control_mode!r}, but only ControlNets have modes, and kind is {self.kind!r}")
        if self.kind == "ip_adapter" and self.preprocessor != "none":
            raise ValueError(f"preprocessor is {self.preprocessor!r}, but an IP-Adapter looks at the picture itself: "
                             "leave it out")
        return self


class ControlOptions(BaseModel):
    """Control of the layout."""

    controls: Several[Control] = Field((), max_length=MAX_CONTROLS, description=(
        "ControlNets, T2I-Adapters and IP-Adapters; all of them count together"))


def control_references(controls: tuple[Control, ...]) -> tuple[Reference, ...]:
    """The models and pictures of these units, and the models of their preprocessors."""
    found: list[Reference] = []
    for number, control in enumerate(controls):
        place = f"controls[{number}]"
        found.append(Reference(control.kind, control.model, f"{place}.model"))
        found.append(Reference("input", control.image, f"{place}.image"))
        if control.kind == "ip_adapter":
            found.append(Reference("image_encoder", control.image_encoder, f"{place}.image_encoder"))
        found += [Reference("preprocessor", file, f"{place}.preprocessor")
                  for file in PREPROCESSORS[control.preprocessor].files]
    return tuple(found)
