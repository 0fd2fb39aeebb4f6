"""Requests and answers of Diptych's own API. Unknown fields are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from diptych.core.image_options import ModelId
from diptych.core.jobs import JobState, Priority
from diptych.core.samplers import SAMPLERS, SCHEDULES
from diptych.core.specs import ImageOptions, JobSpec
from diptych.schedule.pool import RunnerInfo

PriorityName = Literal["interactive", "batch", "training"]


class Body(BaseModel):
    """Base of all request bodies: JSON types as they are (no "20" for 20), no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class JobRequest(ImageOptions, Body):
    """A picture, or several of one prompt."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"prompt": "a red apple on a blue background"},
        {"prompt": "a {red|green|blue} (cat:1.3)", "styles": [], "clip_skip": 2, "count": 3, "seed": 7},
        {"kind": "image", "model": "starter", "prompt": "a green cat", "negative_prompt": "blue", "count": 4,
         "steps": 20, "guidance": 5.0, "sampler": "DPM++ 2M", "schedule": "karras", "seed": 7, "preview_every": 5,
         "priority": "batch"},
    ]})

    sampler: str = Field("Euler", max_length=100, description=f"one of {', '.join(SAMPLERS)}")
    schedule: str = Field(
        "automatic", max_length=100, description=f"noise schedule: automatic or one of {', '.join(SCHEDULES)}")
    priority: PriorityName = Field("interactive", description="class of work; served in this order")


class ModelRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter-text"}]})

    model: ModelId


class LoadRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter-text", "pinned": True}]})

    model: ModelId
    pinned: bool | None = Field(None, description=(
        "true: it stays until it is unloaded, whatever else wants its memory; false: it may go again; left out: as it "
        "was"))


class PullRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter-text", "stream": True}]})

    model: ModelId
    stream: bool = Field(False, description="answer with server-sent events that tell what happens")


class ArtifactView(BaseModel):
    """A finished file. `url` is relative to the server's address."""

    id: str
    job_id: str
    index: int
    url: str
    media_type: str
    seed: int | None
    width: int | None
    height: int | None
    created_at: datetime


class JobView(BaseModel):
    """A job as it stands. `position` (0: next) and `eta_seconds` only where one job that waits was asked for."""

    id: str
    state: JobState
    priority: Priority
    caller: str
    spec: Annotated[JobSpec, Field(discriminator="kind")]
    progress: float = Field(description="0 to 1")
    position: int | None = None
    eta_seconds: float | None = None
    attempts: int
    max_attempts: int
    timeout_seconds: float
    cancel_requested: bool
    error: str | None
    error_status: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    metrics: dict[str, float]
    artifacts: list[ArtifactView]


class JobList(BaseModel):
    """Newest first. `next` is the `before` of the next page, null on the last."""

    jobs: list[JobView]
    next: str | None


class ArtifactList(BaseModel):
    artifacts: list[ArtifactView]


class ModelView(BaseModel):
    """A model on disk. `state` is that of its runner, null when it is not loaded. Of image models: `architecture`
    ("sd1", "sd2", "sdxl", "sdxl-refiner", or the name of diffusers' pipeline), `inpaint` (it is told the mask), and
    `samplers` where it cannot use all of them."""

    id: str
    panel: Literal["text", "image"]
    name: str
    family: str
    architecture: str | None
    inpaint: bool
    samplers: tuple[str, ...]
    format: str
    path: str
    bytes: int
    license: str | None
    size: int | None
    multiple: int | None
    context: int | None
    parameters: int | None
    fingerprint: str
    loaded: bool
    state: str | None


class ModelList(BaseModel):
    """`problems` has a line for every model that is there but cannot be used."""

    models: list[ModelView]
    problems: list[str]


class Unloaded(BaseModel):
    model: str
    loaded: bool = False


class Device(BaseModel):
    """Where models run. Bytes; `memory_for_models` is the budget of all models together (0: the settings do not use
    this device), `memory_leased` what of it is promised, `memory_measured` what their processes were found to hold;
    `memory_free` is null where the driver does not tell; `memory_limit` says what bounds the total, if not the
    hardware; `busy_percent` of all cores together. `cores` and `threads` are 0 for all but the CPU."""

    name: str
    kind: Literal["cpu", "cuda", "rocm", "xpu", "mps"] = "cpu"
    label: str = ""
    cores: int = 0
    threads: int = 0
    memory_total: int
    memory_free: int | None
    memory_for_models: int
    memory_limit: str | None = None
    memory_leased: int = 0
    memory_measured: int = 0
    busy_percent: float | None = None


class QueuedJob(BaseModel):
    id: str
    model: str
    caller: str
    priority: Priority
    position: int
    eta_seconds: float | None
    created_at: datetime


class SystemView(BaseModel):
    """`queue` shows the jobs that are next (at most 1,000); `jobs` counts all by their state."""

    version: str
    uptime_seconds: float
    devices: list[Device]
    runners: list[RunnerInfo]
    queue: list[QueuedJob]
    jobs: dict[str, int]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str
