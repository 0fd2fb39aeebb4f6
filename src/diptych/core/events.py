"""What a runner tells about a piece of work, as newline-delimited JSON; the hub passes the same events on to clients.

A stream ends with exactly one `Finished` or `Failed`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from diptych.core.chat import TokenProbability


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Queued(Event):
    """Sent by the gateway only: `position` is 0 for the job that is next."""

    type: Literal["queued"] = "queued"
    position: int
    eta_seconds: float | None = None


class Started(Event):
    """Sent by the gateway only, when a runner has taken the job."""

    type: Literal["started"] = "started"
    attempt: int


class Progress(Event):
    """`step` of `steps` done, over all pictures of the job; `eta_seconds` from the speed measured so far."""

    type: Literal["progress"] = "progress"
    step: int
    steps: int
    eta_seconds: float | None = None


class Preview(Event):
    """A cheap look at picture `index` before it is done: a base64 PNG of latent resolution or a multiple of it."""

    type: Literal["preview"] = "preview"
    index: int
    step: int
    png: str


class TokenDelta(Event):
    """A piece of text, as soon as it is known to be part of the answer; `logprobs` of its tokens where the spec asks
    for them."""

    type: Literal["token"] = "token"
    text: str
    logprobs: tuple[TokenProbability, ...] = ()


class ReasoningDelta(Event):
    """A piece of what the model thinks before it answers. Made by the gateway from the model's own marks."""

    type: Literal["reasoning"] = "reasoning"
    text: str


class ToolCallDelta(Event):
    """A piece of the call number `index` of the answer: `id` and `name` come with the first piece, then pieces of the
    JSON text of the arguments. Made by the gateway from the model's own marks."""

    type: Literal["tool_call"] = "tool_call"
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Data(Event):
    """The result of work that has one: vectors, scores."""

    type: Literal["data"] = "data"
    value: dict[str, Any]


class ArtifactReady(Event):
    """Picture `index` of the job lies at `path` (inside the job's output folder), whole."""

    type: Literal["artifact"] = "artifact"
    index: int
    path: str
    media_type: str = "image/png"
    seed: int | None = None
    width: int | None = None
    height: int | None = None


class Metrics(Event):
    """Measured figures, e.g. `seconds`, `steps_per_second`, `prompt_tokens`, `completion_tokens`, `peak_bytes`."""

    type: Literal["metrics"] = "metrics"
    values: dict[str, float]


class Finished(Event):
    """`reason` is "stop", "length", "cancelled", "tool_calls", "repetition" or "content_filter"; `stop` is the stop
    text that ended the answer; `guard` are the scores, by category, for which a guard ended it."""

    type: Literal["finished"] = "finished"
    reason: str = "stop"
    stop: str | None = None
    guard: dict[str, float] | None = None


class Failed(Event):
    """`status` is what an HTTP client should see: 4xx where the request was at fault. `retryable`: another attempt
    may succeed (the runner died), as opposed to a fault in the request."""

    type: Literal["failed"] = "failed"
    message: str
    status: int = 503
    param: str | None = None
    code: str | None = None
    retryable: bool = False


AnyEvent = Annotated[
    Queued | Started | Progress | Preview | TokenDelta | ReasoningDelta | ToolCallDelta | Data | ArtifactReady | Metrics
    | Finished | Failed,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyEvent)


def parse_event(line: str | bytes) -> Event:
    """One event from a line of JSON; raises `pydantic.ValidationError` on anything else."""
    event: Event = _ADAPTER.validate_json(line)
    return event
