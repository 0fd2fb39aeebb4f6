"""The passes that a picture goes through: one, or two with `hires`. Pure: gateway and engine ask the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from diptych.core.errors import InvalidRequest
from diptych.core.specs import FinishSpec, ImageSpec, JobSpec

_OF_SAMPLER = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "rho", "sigma_min", "sigma_max")
"""Options of the first pass's sampler, which may mean nothing to another one."""
_OF_FIRST = {"hires": None, "init_image": None, "mask": None, "outpaint": None, "color_correction": False,
             "strength_schedule": ()}
"""What only the first pass has."""


@dataclass(frozen=True)
class Stage:
    """One pass: `spec` has its own steps, sampler, guidance, prompts and size; `skip` of the steps count as made."""

    spec: ImageSpec
    skip: int = 0

    @property
    def steps(self) -> int:
        """That are made."""
        return self.spec.steps - self.skip


def stages_of(spec: ImageSpec) -> tuple[Stage, ...]:
    """The passes of a spec; the size of a second one where the spec has its own.

    Raises:
        InvalidRequest: no step would be made, or the second pass has a sampler that does not go with its options.
    """
    skip = 0 if spec.init_image is None else _skipped(spec.steps, spec.strength, "strength")
    if spec.hires is None:
        return (Stage(spec, skip),)
    return Stage(spec, skip), _hires(spec)


def steps_of(spec: JobSpec) -> int:
    """Steps of one picture, all passes together; 1 where nothing is painted. Raises InvalidRequest as `stages_of`."""
    if isinstance(spec, FinishSpec):
        return spec.steps
    return sum(stage.steps for stage in stages_of(spec))


def shape_of(spec: JobSpec) -> str:
    """"WxH" in pixels of a settled spec's largest pass, by which memory is planned and speeds are kept; "auto" for a
    side that follows from the picture it starts from."""
    if isinstance(spec, FinishSpec):
        return spec.kind
    if spec.hires is None or spec.width is None or spec.height is None:
        return f"{spec.width or 'auto'}x{spec.height or 'auto'}"
    width, height = hires_size(spec, spec.width, spec.height)
    return f"{width}x{height} from {spec.width}x{spec.height}"


def hires_size(spec: ImageSpec, width: int, height: int) -> tuple[int, int]:
    """Of the second pass after a first one of `width` and `height`, in multiples of 8 pixels."""
    hires = spec.hires
    assert hires is not None
    if hires.width is not None and hires.height is not None:
        return hires.width, hires.height
    return max(8, int(width * hires.scale) // 8 * 8), max(8, int(height * hires.scale) // 8 * 8)


def _skipped(steps: int, strength: float, param: str) -> int:
    """As in diffusers: of `steps`, the share `strength` is made, rounded down."""
    made = min(int(steps * strength), steps)
    if made < 1:
        raise InvalidRequest(
            f"{param} is {strength:g}, which leaves none of {steps} steps to be made; give at least {1 / steps:.2g}",
            param=param)
    return steps - made


def _hires(spec: ImageSpec) -> Stage:
    hires = spec.hires
    assert hires is not None
    names = ("steps", "guidance", "sampler", "schedule", "prompt", "negative_prompt")
    given = {name: value for name in names if (value := getattr(hires, name)) is not None}
    values: dict[str, Any] = {**spec.__dict__, **_OF_FIRST, **given}
    if "sampler" in given:
        values |= {"schedule": given.get("schedule", "automatic"), **dict.fromkeys(_OF_SAMPLER)}
    if {"prompt", "negative_prompt"} & set(given):
        values["resolved"] = ()
    if spec.width is not None and spec.height is not None:
        values["width"], values["height"] = hires_size(spec, spec.width, spec.height)
    try:
        second = ImageSpec.model_validate(values)
    except InvalidRequest as error:
        raise InvalidRequest(f"hires: {error.message}", param=f"hires.{error.param}") from None
    except ValidationError as error:
        raise InvalidRequest(f"hires: {error.errors()[0]['msg']}", param="hires") from None
    return Stage(second, _skipped(second.steps, hires.strength, "hires.strength"))
