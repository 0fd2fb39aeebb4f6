"""Specs: frozen descriptions of one piece of work. A spec is complete: the same spec makes the same result again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diptych.core.adapters import AdapterOptions, adapter_references
from diptych.core.canvas import CanvasOptions
from diptych.core.chat import Message, OutputFormat, Tool, ToolChoice
from diptych.core.control import ControlOptions, control_references
from diptych.core.errors import InvalidRequest
from diptych.core.finish import Detail, FinishOptions, finish_references
from diptych.core.image_options import (
    INPUT_ID,
    MAX_PROMPT,
    MAX_SEED,
    ModelId,
    PictureOptions,
    Reference,
    SamplingOptions,
)
from diptych.core.samplers import check_options, parse_sampler
from diptych.core.size_hints import SizeOptions
from diptych.core.stages import BUILT_IN_UPSCALERS, StageOptions, check_stages


class Spec(BaseModel):
    """Base of all specs: frozen, unknown fields refused, NaN and infinities refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResolvedPrompt(Spec):
    """The prompts of one picture with styles, wildcards and choices decided."""

    prompt: str = Field(max_length=MAX_PROMPT)
    negative_prompt: str = Field("", max_length=MAX_PROMPT)


class ImageOptions(
    FinishOptions, SizeOptions, ControlOptions, StageOptions,
    AdapterOptions, CanvasOptions, SamplingOptions, PictureOptions,
):
    """All that a picture's spec and a request for one have in common; the last class here comes first."""


class ImageSpec(ImageOptions, Spec):
    """One image job: `count` pictures of one prompt, with seeds `seed, seed + 1, …`.

    `prompt` and `negative_prompt` are what was asked. `resolved` is what is painted, one for each picture; it is empty
    where that is the same.
    """

    sampler: str = Field("Euler", description="A1111's name, e.g. 'DPM++ 2M'")
    schedule: str = Field("normal", description="noise schedule, e.g. 'karras'")
    resolved: tuple[ResolvedPrompt, ...] = Field((), max_length=64, description="prompts of each picture, if others")
    named: dict[str, str] = Field({}, max_length=256, description=(
        "ids of the files that prompts name, by lora:NAME and embedding:WORD; found when the job is accepted"))

    def prompts_of(self, index: int) -> ResolvedPrompt:
        """What picture `index` is painted from."""
        if self.resolved:
            return self.resolved[index]
        return ResolvedPrompt(prompt=self.prompt, negative_prompt=self.negative_prompt)

    def references(self) -> tuple[Reference, ...]:
        """The files that it needs beside its model."""
        found: list[Reference] = []
        if self.init_image is not None:
            found.append(Reference("input", self.init_image, "init_image"))
        if self.mask is not None and self.mask.image is not None:
            found.append(Reference("input", self.mask.image, "mask.image"))
        if self.hires is not None and self.hires.upscaler not in BUILT_IN_UPSCALERS:
            found.append(Reference("upscaler", self.hires.upscaler, "hires.upscaler"))
        if self.refiner is not None:
            found.append(Reference("model", self.refiner.model, "refiner.model"))
        found += adapter_references(self, self.named)
        found += control_references(self.controls)
        found += finish_references(self.finish)
        return tuple(found)

    @model_validator(mode="after")
    def _whole(self) -> ImageSpec:
        if self.resolved and len(self.resolved) != self.count:
            raise ValueError(f"resolved has {len(self.resolved)} prompts, but count is {self.count}")
        _check_inputs(self.references())
        check_stages(self)
        return self

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> ImageSpec:
        """A spec that was written down, maybe by a version that knew no prompt language: then its prompts are words.
        Raises ValidationError."""
        return cls.model_validate({"prompt_syntax": "plain", **values})

    @model_validator(mode="after")
    def _options(self) -> ImageSpec:
        check_options(self.sampler, self.schedule, self.__dict__)
        return self

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("sampler", "Euler"), str):
            schedule = values.get("schedule", "automatic")
            if isinstance(schedule, str):
                sampler, schedule = parse_sampler(values.get("sampler", "Euler"), schedule)
                return {**values, "sampler": sampler, "schedule": schedule}
        return values


class FinishSpec(FinishOptions, Spec):
    """Work on a picture that is there: the stages of `finish`, and the check for nudity.

    `model` paints details again from `prompt`; for other stages it only says whose runner does the work.
    """

    kind: Literal["finish"] = "finish"
    model: ModelId = "starter"
    image: str = Field(description="id of the picture, sha256:…")
    prompt: str = Field("", max_length=MAX_PROMPT, description="what stages paint that have no prompt of their own")
    negative_prompt: str = Field("", max_length=MAX_PROMPT)
    seed: int = Field(-1, ge=-1, le=MAX_SEED)
    count: Literal[1] = 1
    steps: ClassVar[int] = 1
    """In the counters of the queue a whole job counts as one step of one picture."""
    width: ClassVar[int | None] = None
    height: ClassVar[int | None] = None

    def references(self) -> tuple[Reference, ...]:
        """The files that it needs beside its model."""
        return (Reference("input", self.image, "image"), *finish_references(self.finish))

    @model_validator(mode="after")
    def _whole(self) -> FinishSpec:
        _check_inputs(self.references())
        if not self.finish and self.nsfw == "off":
            raise InvalidRequest("finish has no stage: say what to do, e.g. {\"kind\": \"upscale\", \"factor\": 2}",
                                 param="finish")
        for place, stage in enumerate(self.finish):
            if isinstance(stage, Detail) and not (stage.prompt or self.prompt):
                raise InvalidRequest(f"finish[{place}].prompt is missing: what shall be painted there?",
                                     param=f"finish[{place}].prompt")
        return self


JobSpec = ImageSpec | FinishSpec
"""Work that is durable."""


def recorded_spec(values: dict[str, Any]) -> JobSpec:
    """A spec as it was written down. Raises ValidationError."""
    return FinishSpec.model_validate(values) if values.get("kind") == "finish" else ImageSpec.of_record(values)


def _check_inputs(references: Iterable[Reference]) -> None:
    for reference in references:
        if reference.kind == "input" and not INPUT_ID.fullmatch(reference.id):
            raise ValueError(f"{reference.param} is no id of an uploaded picture (sha256:…)")


class Sampling(Spec):
    """How tokens are chosen. The defaults are llama.cpp's usual ones. `repetition_stop`: an answer that goes round in
    circles ends with the reason "repetition"."""

    temperature: float = Field(0.7, ge=0.0, le=5.0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    top_k: int = Field(40, ge=0, le=1_000_000)
    min_p: float = Field(0.05, ge=0.0, le=1.0)
    typical_p: float = Field(1.0, gt=0.0, le=1.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repeat_penalty: float = Field(1.0, gt=0.0, le=5.0)
    repeat_last_n: int = Field(64, ge=-1, le=1_000_000, description="tokens that penalties look back; -1: all")
    dry_multiplier: float = Field(0.0, ge=0.0, le=100.0, description="strength of the DRY penalty; 0: off")
    dry_base: float = Field(1.75, ge=1.0, le=100.0)
    dry_allowed_length: int = Field(2, ge=0, le=1_000_000)
    dry_penalty_last_n: int = Field(-1, ge=-1, le=1_000_000)
    dry_sequence_breakers: tuple[str, ...] = Field(("\n", ":", '"', "*"), max_length=64)
    logit_bias: dict[str, float] = Field(default_factory=dict, description="token id or text, and what is added")
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    min_tokens: int = Field(0, ge=0, le=1_000_000)
    ignore_eos: bool = False
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field((), max_length=16)
    logprobs: int | None = Field(None, ge=0, le=20, description="tell each token's probability and so many others")
    repetition_stop: bool = True


class Adapter(Spec):
    """A LoRA adapter of the library, and its strength."""

    id: str = Field(min_length=1, max_length=300)
    weight: float = Field(1.0, ge=-10.0, le=10.0)


class TextBase(Spec):
    """What all answers in text have in common.

    `grammar` is llguidance's Lark text, made and checked by the gateway from what the client asked for: an engine
    has to hold every token to it, or refuse. `truncation`: "auto" leaves out the oldest turns of a conversation that
    does not fit, "disabled" refuses it with the counts.
    """

    model: str = Field("starter-text", min_length=1, max_length=300)
    sampling: Sampling = Sampling()
    grammar: str | None = None
    adapters: tuple[Adapter, ...] = Field((), max_length=8)
    truncation: Literal["auto", "disabled"] = "disabled"


class ChatSpec(TextBase):
    """One answer to a conversation. `tools` are told to the model through its template; what it may call, and in which
    form, is in `grammar`. `format` is what the client asked for, for the record."""

    kind: Literal["chat"] = "chat"
    messages: tuple[Message, ...] = Field(min_length=1, max_length=10_000)
    tools: tuple[Tool, ...] = Field((), max_length=1000)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    format: OutputFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    template_options: dict[str, Any] = Field(default_factory=dict)


class CompletionSpec(TextBase):
    """Continue a text as it stands, without a chat template; with `suffix`, fill the gap before it. `prompt` may be
    token ids."""

    kind: Literal["completion"] = "completion"
    prompt: str | tuple[int, ...]
    suffix: str | None = None
    format: OutputFormat | None = None
    echo: bool = False


class EmbedSpec(Spec):
    """Vectors of texts; answered with one `Data` event, `{"vectors": [[…]], "tokens": n}`."""

    kind: Literal["embed"] = "embed"
    model: str = Field(min_length=1, max_length=300)
    inputs: tuple[str | tuple[int, ...], ...] = Field(min_length=1, max_length=2048)
    normalize: bool = True


class RerankSpec(Spec):
    """How well each document answers the query; one `Data` event, `{"scores": […], "tokens": n}`."""

    kind: Literal["rerank"] = "rerank"
    model: str = Field(min_length=1, max_length=300)
    query: str = Field(min_length=1)
    documents: tuple[str, ...] = Field(min_length=1, max_length=2048)


class ScoreSpec(Spec):
    """The log-likelihood of each of `options` as the answer to `messages`; one `Data` event,
    `{"logprobs": […], "tokens": n}` with natural logarithms, summed over an option's tokens."""

    kind: Literal["score"] = "score"
    model: str = Field("starter-text", min_length=1, max_length=300)
    messages: tuple[Message, ...] = Field(min_length=1, max_length=10_000)
    options: tuple[str, ...] = Field(min_length=1, max_length=1000)


class InterrogateSpec(Spec):
    """Which of `captions` describes a picture best, asked of an image model; one `Data` event, `{"captions":
    [{"caption", "error"}, …], "tokens": n}`, the best first. `error`: mean squared error of the model's prediction."""

    kind: Literal["interrogate"] = "interrogate"
    model: ModelId = "starter"
    picture: str = Field(description="base64 of a PNG file")
    captions: tuple[str, ...] = Field(min_length=1, max_length=1000)
    samples: int = Field(16, ge=1, le=256, description="noises that a caption is measured with")
    seed: int = Field(0, ge=0, le=MAX_SEED)


TextSpec = ChatSpec | CompletionSpec
LiveSpec = ChatSpec | CompletionSpec | EmbedSpec | RerankSpec | ScoreSpec | InterrogateSpec
"""Work that is answered at once and keeps no durable record."""
AnySpec = Annotated[
    ImageSpec | FinishSpec | ChatSpec | CompletionSpec | EmbedSpec | RerankSpec | ScoreSpec | InterrogateSpec,
    Field(discriminator="kind")]
