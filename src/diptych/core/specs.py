"""Specs: frozen descriptions of one piece of work. A spec is complete: the same spec makes the same result again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diptych.core.samplers import parse_sampler

MAX_PROMPT = 20_000
"""Characters of one prompt of an image job."""
MAX_SEED = 2**63 - 1


class Spec(BaseModel):
    """Base of all specs: frozen, unknown fields refused, NaN and infinities refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageSpec(Spec):
    """One image job: `count` pictures of one prompt, with seeds `seed, seed + 1, …`."""

    kind: Literal["image"] = "image"
    model: str = Field("starter", min_length=1, max_length=300, description="id of an image model in the library")
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, examples=["a red apple on a blue background"])
    negative_prompt: str = Field("", max_length=MAX_PROMPT)
    width: int | None = Field(None, ge=8, le=4096, description="pixels; the model's own size when left out")
    height: int | None = Field(None, ge=8, le=4096, description="pixels; the model's own size when left out")
    steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(5.0, ge=1.0, le=50.0, description="guidance scale (CFG); 1 makes a single pass")
    sampler: str = Field("Euler", description="A1111's name, e.g. 'DPM++ 2M'")
    schedule: str = Field("normal", description="noise schedule: normal or karras")
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="-1: one is drawn when the job is accepted")
    count: int = Field(1, ge=1, le=64, description="pictures to make")
    preview_every: int = Field(0, ge=0, le=1000, description="a preview event every so many steps; 0: none")

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("sampler", "Euler"), str):
            schedule = values.get("schedule", "automatic")
            if isinstance(schedule, str):
                sampler, schedule = parse_sampler(values.get("sampler", "Euler"), schedule)
                return {**values, "sampler": sampler, "schedule": schedule}
        return values


class Message(Spec):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Spec):
    """How tokens are chosen. The defaults are llama.cpp's usual ones."""

    temperature: float = Field(0.7, ge=0.0, le=5.0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    top_k: int = Field(40, ge=0, le=1_000_000)
    min_p: float = Field(0.05, ge=0.0, le=1.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repeat_penalty: float = Field(1.0, gt=0.0, le=5.0)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field((), max_length=16)


class ChatSpec(Spec):
    """One answer to a conversation."""

    kind: Literal["chat"] = "chat"
    model: str = Field("starter-text", min_length=1, max_length=300)
    messages: tuple[Message, ...] = Field(min_length=1, max_length=10_000)
    sampling: Sampling = Sampling()


class CompletionSpec(Spec):
    """Continue a text as it stands, without a chat template."""

    kind: Literal["completion"] = "completion"
    model: str = Field("starter-text", min_length=1, max_length=300)
    prompt: str
    sampling: Sampling = Sampling()


TextSpec = ChatSpec | CompletionSpec
AnySpec = Annotated[ImageSpec | ChatSpec | CompletionSpec, Field(discriminator="kind")]
