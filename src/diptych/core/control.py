"""Pictures that guide how a picture is laid out: ControlNets, T2I-Adapters and IP-Adapters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @model_validator(mode="before")
    @classmethod
    def _name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("preprocessor"), str):
            return {**values, "preprocessor": parse_preprocessor(values["preprocessor"])}
        return values

    @model_validator(mode="after")
    def _numbers(self) -> Preprocessing:
        thresholds(self.preprocessor, self.threshold_a, self.threshold_b)
        if self.pixel_perfect and self.processor_res is not None:
            raise InvalidRequest(
                f"processor_res is {self.processor_res}, but with pixel_perfect the size is that of the picture: give "
                "one of the two", param="processor_res")
        if self.pixel_perfect is False and self.processor_res is None:
            raise InvalidRequest("pixel_perfect is false: processor_res has to say at which size to work, e.g. 512",
                                 param="processor_res")
        return self


class Control(Preprocessing):
    """One unit of control. It counts from the share `start` of the steps to the share `end`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: str = Field(min_length=1, max_length=300, description="id of a ControlNet or adapter in the library")
    kind: ControlKind = Field("controlnet", description="what the model is")
    image: PictureRef = Field(description="the picture that guides")
    weight: float = Field(1.0, ge=-1.0, le=2.0, description="strength; 0: none")
    start: float = Field(0.0, ge=0.0, le=1.0, description="share of the steps before it counts")
    end: float = Field(1.0, ge=0.0, le=1.0, description="share of the steps after which it counts no more")
    control_mode: ControlMode = Field("balanced", description=(
        "which is more important; prompt: the control is weaker in the finer layers; control: so it is, and only for "
        "the prompt, not for the negative one, so that guidance strengthens it. Of ControlNets only"))

    @model_validator(mode="after")
    def _times(self) -> Control:
        if self.start >= self.end:
            raise InvalidRequest(f"start is {self.start:g}, not before end, {self.end:g}", param="start")
        if self.kind != "controlnet" and self.control_mode != "balanced":
            raise InvalidRequest(
                f"control_mode is {self.control_mode!r}, but only ControlNets have modes, and kind is {self.kind!r}",
                param="control_mode")
        if self.kind == "ip_adapter" and self.preprocessor != "none":
            raise InvalidRequest(
                f"preprocessor is {self.preprocessor!r}, but an IP-Adapter looks at the picture itself: leave it out",
                param="preprocessor")
        return self


class ControlOptions(BaseModel):
    """Control of the layout."""

    controls: Several[Control] = Field((), max_length=MAX_CONTROLS, description=(
        "ControlNets, T2I-Adapters and IP-Adapters; all of them count together"))


def control_references(controls: tuple[Control, ...]) -> tuple[Reference, ...]:
    """The models and pictures of these units, and the models of their preprocessors."""
    found: list[Reference] = []
    for number, control in enumerate(controls):
        place = f"controls.{number}"
        found.append(Reference(control.kind, control.model, f"{place}.model"))
        found.append(Reference("input", control.image, f"{place}.image"))
        found += [Reference("preprocessor", file, f"{place}.preprocessor")
                  for file in PREPROCESSORS[control.preprocessor].files]
    return tuple(found)
