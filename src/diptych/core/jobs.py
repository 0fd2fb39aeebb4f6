"""A job: a spec's durable record, and the states it goes through."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from diptych.core.specs import JobSpec


class JobState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Priority(str, Enum):
    """Classes of work, served in this order."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    TRAINING = "training"


class Artifact(BaseModel):
    """A file a job made. `path` is relative to the artifacts folder; `url` is where the gateway serves it."""

    model_config = ConfigDict(frozen=True)

    id: str
    job_id: str
    index: int
    path: str
    media_type: str
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    created_at: datetime


class Job(BaseModel):
    """The record as the store keeps it. Times are UTC."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: JobState
    priority: Priority
    caller: str
    spec: Annotated[JobSpec, Field(discriminator="kind")]
    attempts: int
    max_attempts: int
    timeout_seconds: float
    cancel_requested: bool = False
    error: str | None = None
    error_status: int | None = None
    progress: float = 0.0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    metrics: dict[str, float] = {}
    artifacts: tuple[Artifact, ...] = ()
