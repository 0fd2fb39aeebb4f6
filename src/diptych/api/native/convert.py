"""Between HTTP models and the words of the core. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from diptych.api.errors import refusal
from diptych.api.native.schema import ArtifactView, JobView, ModelView, QueuedJob
from diptych.core.cards import Card
from diptych.core.events import ArtifactReady, Event
from diptych.core.jobs import Artifact, Job
from diptych.core.specs import ImageSpec
from diptych.schedule.pool import RunnerInfo


def image_spec(values: dict[str, Any], names: dict[str, str] | None = None) -> ImageSpec:
    """A spec of these fields. Raises InvalidRequest; `names`: what the client calls a field, where that differs."""
    try:
        return ImageSpec.model_validate(values)
    except ValidationError as error:
        raise refusal(error, names) from None


def artifact_url(id: str) -> str:
    return f"/api/artifacts/{id}"


def artifact_view(artifact: Artifact) -> ArtifactView:
    return ArtifactView(url=artifact_url(artifact.id), **artifact.model_dump(exclude={"path"}))


def job_view(job: Job, position: int | None = None, eta_seconds: float | None = None) -> JobView:
    values = {name: getattr(job, name) for name in Job.model_fields if name != "artifacts"}
    return JobView(**values, artifacts=[artifact_view(item) for item in job.artifacts], position=position,
                   eta_seconds=eta_seconds)


def queued_view(job: Job, position: int, eta_seconds: float | None) -> QueuedJob:
    return QueuedJob(id=job.id, model=job.spec.model, caller=job.caller, priority=job.priority, position=position,
                     eta_seconds=eta_seconds, created_at=job.created_at)


def model_view(card: Card, runners: list[RunnerInfo]) -> ModelView:
    runner = next((runner for runner in runners if runner.model == card.id), None)
    return ModelView(**card.model_dump(), loaded=runner is not None and runner.state == "ready",
                     state=runner.state if runner else None)


def event_view(job_id: str, event: Event) -> dict[str, Any]:
    """An event as a client sees it: of a file its address, not its place on the disk."""
    values = event.model_dump(mode="json")
    if isinstance(event, ArtifactReady):
        del values["path"]
        id = f"{job_id}-{event.index}"
        values |= {"id": id, "url": artifact_url(id)}
    return values
