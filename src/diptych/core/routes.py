"""Routes: names that stand for several models, as an operator writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Strategy = Literal["order", "weighted", "least-busy", "latency"]
Fault = Literal["outage", "overload", "timeout", "refusal"]
"""Why a target did not answer, where another one may: see `routing/faults.py`."""
FAULTS: tuple[Fault, ...] = ("outage", "overload", "timeout", "refusal")
MAX_TARGETS = 32
RouteName = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$")]


class RouteTarget(BaseModel):
    """One model of a route: of this machine, or of an upstream as `<upstream>/<model>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, max_length=300)
    weight: float = Field(1.0, ge=0, le=1e6, allow_inf_nan=False, description=(
        "its share under the strategies weighted and least-busy; 0: only where no other can answer"))
    first_token_seconds: float | None = Field(
        None, gt=0, le=86_400, description="how long it may take to the first token, its loading included")


class Route(BaseModel):
    """Several models under one name. A target may be written as the name of its model alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[RouteTarget, ...] = Field(min_length=1, max_length=MAX_TARGETS)
    strategy: Strategy = Field("order", description="which target is asked first; the others follow where it fails")
    fallback_on: tuple[Fault, ...] = Field(FAULTS, description="faults after which the next target is asked")
    cooldown_after: int = Field(1, ge=1, le=1000, description="faults in a row after which a target is left alone")
    cooldown_seconds: float = Field(
        30.0, ge=0, le=86_400, description="for so long, 0: never; twice as long after each failed probe, at most 16 "
        "times")
    same_vectors: bool = Field(False, description=(
        "all targets are the same model, so that vectors of one can be compared with those of another"))

    @field_validator("targets", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple({"model": item} if isinstance(item, str) else item for item in value)

    @field_validator("targets")
    @classmethod
    def _once(cls, targets: tuple[RouteTarget, ...]) -> tuple[RouteTarget, ...]:
        names = [target.model for target in targets]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is a target twice")
        return targets
