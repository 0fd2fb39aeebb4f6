"""Names of samplers and noise schedules as A1111's users know them, and what each takes. The engine has the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import InvalidRequest

SCHEDULES: tuple[str, ...] = (
    "normal", "uniform", "karras", "exponential", "polyexponential", "sgm uniform", "simple", "ddim uniform",
    "trailing", "beta", "kl optimal", "align your steps",
)
SPACINGS: tuple[str, ...] = ("normal", "uniform", "ddim uniform", "trailing")
"""Schedules made of whole timesteps: those of samplers that are defined on them."""
BOUNDED: frozenset[str] = frozenset({"karras", "exponential", "polyexponential", "beta", "kl optimal"})
"""Schedules that take `sigma_min` and `sigma_max`."""
CURVED: frozenset[str] = frozenset({"karras", "polyexponential"})
"""Schedules that take `rho`."""
SCHEDULE_LABELS: dict[str, str] = {
    "sgm uniform": "SGM Uniform", "ddim uniform": "DDIM", "kl optimal": "KL Optimal",
    "align your steps": "Align Your Steps", "trailing": "Turbo",
}
"""A1111's ways to write a schedule; the others are capitalized."""

_CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
_ANCESTRAL = ("eta", "s_noise")


@dataclass(frozen=True)
class Traits:
    """What a sampler takes. `automatic` is the schedule that A1111 gives it; `options` are fields of `ImageSpec`."""

    schedules: tuple[str, ...] = SCHEDULES
    automatic: str = "normal"
    options: tuple[str, ...] = ()
    zero_snr: bool = True
    predicts_sample: bool = True


TRAITS: dict[str, Traits] = {
    "Euler": Traits(options=_CHURN),
    "Euler a": Traits(options=_ANCESTRAL),
    "Heun": Traits(options=_CHURN),
    "LMS": Traits(zero_snr=False),
    "DPM2": Traits(options=_CHURN, automatic="karras"),
    "DPM2 a": Traits(options=_ANCESTRAL, automatic="karras"),
    "DPM++ 2S": Traits(zero_snr=False, automatic="karras"),
    "DPM++ 2S a": Traits(options=_ANCESTRAL, automatic="karras"),
    "DPM++ 2M": Traits(automatic="karras"),
    "DPM++ 3M": Traits(automatic="karras"),
    "DPM++ SDE": Traits(options=("s_noise",), automatic="karras", zero_snr=False, predicts_sample=False),
    "DPM++ 2M SDE": Traits(options=("s_noise",), automatic="karras"),
    "DPM++ 2M SDE Heun": Traits(options=("s_noise",), automatic="karras"),
    "DPM++ 3M SDE": Traits(options=("s_noise",), automatic="exponential"),
    "DPM fast": Traits(("normal",), options=(*_ANCESTRAL, "sigma_min", "sigma_max")),
    "DPM adaptive": Traits(("normal",), options=(*_ANCESTRAL, "sigma_min", "sigma_max")),
    "Restart": Traits(("karras",), "karras", ("s_noise",)),
    "DDIM": Traits(SPACINGS, options=("eta",)),
    "DDPM": Traits(SPACINGS),
    "PLMS": Traits(SPACINGS, zero_snr=False, predicts_sample=False),
    "UniPC": Traits(),
    "DEIS": Traits(zero_snr=False),
    "SA Solver": Traits(zero_snr=False),
    "LCM": Traits(("normal",)),
    "TCD": Traits(("normal",), options=("eta",)),
}
SAMPLERS: tuple[str, ...] = tuple(TRAITS)
"""Of models that were trained on noise levels: Stable Diffusion 1, 2 and XL."""
FLOW_EULER = "Flow Match Euler"
"""The sampler of flow matching models (Esser et al. 2024, https://arxiv.org/abs/2403.03206), which "Euler" means with
them, too."""
TRAITS[FLOW_EULER] = Traits(("normal",), zero_snr=False, predicts_sample=False)

_SAMPLER_ALIASES = {
    "euler ancestral": "Euler a", "dpm 2": "DPM2", "dpm 2 a": "DPM2 a", "dpm 2 ancestral": "DPM2 a",
    "dpm2 ancestral": "DPM2 a", "dpmpp 2s a": "DPM++ 2S a", "dpmpp 2s ancestral": "DPM++ 2S a", "dpmpp 2s": "DPM++ 2S",
    "dpmpp 2m": "DPM++ 2M", "dpmpp 3m": "DPM++ 3M", "dpmpp sde": "DPM++ SDE", "dpmpp 2m sde": "DPM++ 2M SDE",
    "dpmpp 2m sde heun": "DPM++ 2M SDE Heun", "dpmpp 3m sde": "DPM++ 3M SDE", "uni pc": "UniPC", "sa": "SA Solver",
    "pndm": "PLMS", "flow euler": FLOW_EULER, "flowmatch euler": FLOW_EULER,
}
_SCHEDULE_ALIASES = {
    "linear": "uniform", "linspace": "uniform", "poly exponential": "polyexponential", "ddim": "ddim uniform",
    "leading": "ddim uniform", "turbo": "trailing", "ays": "align your steps",
}
_OPTIONS = ("eta", *_CHURN, "rho", "sigma_min", "sigma_max")
_NEUTRAL = {"s_churn": 0.0, "s_tmin": 0.0, "s_noise": 1.0}
"""Values that change nothing, which any sampler takes: clients send them without being asked."""


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


_SAMPLERS = {**{_folded(name): name for name in TRAITS}, **_SAMPLER_ALIASES}
_SCHEDULES = {**{name: name for name in SCHEDULES}, **_SCHEDULE_ALIASES, "automatic": "automatic"}


def schedules_of(sampler: str) -> tuple[str, ...]:
    """The schedules of a sampler, by its canonical name."""
    return TRAITS[sampler].schedules


def schedule_label(schedule: str) -> str:
    """A1111's way to write a canonical schedule."""
    return SCHEDULE_LABELS.get(schedule, schedule.capitalize())


def parse_sampler(name: str, schedule: str = "automatic") -> tuple[str, str]:
    """Canonical `(sampler, schedule)` from what a client sent.

    Old clients put both into one string ("DPM++ 2M Karras"); k-diffusion's and ComfyUI's names work as well.
    "automatic" is the schedule that A1111 gives the sampler.

    Raises:
        InvalidRequest: unknown names, or a schedule that the sampler does not have.
    """
    folded, wanted = _folded(name).removeprefix("k "), _folded(schedule)
    for suffix in sorted(_SCHEDULES, key=len, reverse=True):
        if folded not in _SAMPLERS and folded.endswith(" " + suffix):
            folded = folded[: -len(suffix) - 1]
            wanted = suffix if wanted == "automatic" else wanted
    if folded not in _SAMPLERS:
        raise InvalidRequest(f"sampler {name!r} is unknown; known: {', '.join(TRAITS)}", param="sampler")
    if wanted not in _SCHEDULES:
        raise InvalidRequest(
            f"schedule {schedule!r} is unknown; known: automatic, {', '.join(SCHEDULES)}", param="schedule")
    sampler, wanted = _SAMPLERS[folded], _SCHEDULES[wanted]
    traits = TRAITS[sampler]
    if wanted == "automatic":
        wanted = traits.automatic
    if wanted not in traits.schedules:
        raise InvalidRequest(
            f"sampler {sampler!r} has no schedule {wanted!r}; use {' or '.join(traits.schedules)}", param="schedule")
    return sampler, wanted


def check_options(sampler: str, schedule: str, values: Mapping[str, Any]) -> None:
    """Check fields of `ImageSpec` that only some samplers take, by canonical names; fields that are None are not given.

    Raises:
        InvalidRequest: a field that the sampler or the schedule has no use for, or bounds that exclude all.
    """
    traits = TRAITS[sampler]
    for name in _OPTIONS:
        value = values.get(name)
        if value is None or value == _NEUTRAL.get(name) or _takes(sampler, schedule, name):
            continue
        having = [other for other in SAMPLERS if name in TRAITS[other].options]
        what = f"sampler {sampler!r}"
        if name in ("rho", "sigma_min", "sigma_max"):
            having = sorted(CURVED if name == "rho" else BOUNDED)
            what += f" with schedule {schedule!r}"
        raise InvalidRequest(f"{name} is {value:g}, but {what} has no use for it; {', '.join(having)} have", param=name)
    for low, high in (("s_tmin", "s_tmax"), ("sigma_min", "sigma_max")):
        if values.get(low) is not None and values.get(high) is not None and values[low] >= values[high]:
            raise InvalidRequest(f"{low} is {values[low]:g}, not less than {high}, {values[high]:g}", param=low)
    if values.get("zero_terminal_snr") and not traits.zero_snr:
        raise InvalidRequest(f"sampler {sampler!r} cannot do zero_terminal_snr; {', '.join(_with_zero_snr())} can",
                             param="zero_terminal_snr")
    if values.get("prediction_type") == "sample" and not traits.predicts_sample:
        raise InvalidRequest(f"sampler {sampler!r} cannot use a model whose prediction_type is 'sample'",
                             param="prediction_type")


def _takes(sampler: str, schedule: str, name: str) -> bool:
    if name in TRAITS[sampler].options:
        return True
    return (name == "rho" and schedule in CURVED) or (name in ("sigma_min", "sigma_max") and schedule in BOUNDED)


def _with_zero_snr() -> list[str]:
    return [name for name in SAMPLERS if TRAITS[name].zero_snr]
