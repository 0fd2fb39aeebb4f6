"""Counts what the hub tells about jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from diptych.api.observe.metrics import Metrics
from diptych.core.events import ArtifactReady, Event, Failed, Finished, Progress, Queued, Started
from diptych.core.events import Metrics as Measured
from diptych.core.jobs import Job
from diptych.core.painting import steps_of
from diptych.schedule.execution import Execution
from diptych.schedule.hub import Hub

log = logging.getLogger("diptych.jobs")
PANEL = "image"
"""Every durable job makes pictures so far."""


class CountingHub(Hub):
    """A hub that counts what it passes on. `watch` tells it where to find the attempts that run here."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics
        self._executing: Callable[[str], Execution | None] = lambda id: None
        self._attempts: dict[str, _Attempt] = {}

    def watch(self, executing: Callable[[str], Execution | None]) -> None:
        self._executing = executing

    def publish(self, job_id: str, event: Event) -> None:
        self._count(job_id, event)
        super().publish(job_id, event)

    def _count(self, id: str, event: Event) -> None:
        execution = self._executing(id)
        attempt = self._attempts.get(id)
        if isinstance(event, Started) and execution is not None:
            self._attempts[id] = _Attempt(self._metrics, execution)
        elif attempt is not None:
            attempt.take(event)
            if isinstance(event, (Queued, Finished, Failed)):
                del self._attempts[id]
        elif isinstance(event, (Finished, Failed)):  # ended in the queue
            _ended(self._metrics, event)

    def forget(self) -> None:
        """No attempt goes on: those that were broken off were put back into the queue."""
        self._attempts.clear()


class _Attempt:
    def __init__(self, metrics: Metrics, execution: Execution) -> None:
        self._metrics, self._execution = metrics, execution
        self._began = time.monotonic()
        job = execution.job
        self._model = metrics.model(job.spec.model)
        # What earlier attempts made is told as done from the start.
        self._steps = steps_of(job.spec) * len(job.artifacts)
        metrics.attempts.labels(PANEL, self._model).inc()
        self._say("attempt %d of %d begins", job.attempts, job.max_attempts)
        if job.attempts == 1:
            metrics.waiting_seconds.labels(PANEL, job.priority.value).observe(_waited(job))

    def take(self, event: Event) -> None:
        metrics = self._metrics
        if isinstance(event, Progress):
            metrics.steps.labels(self._model).inc(max(0, event.step - self._steps))
            self._steps = max(self._steps, event.step)
        elif isinstance(event, ArtifactReady):
            metrics.pictures.labels(self._model).inc()
        elif isinstance(event, Measured):
            if (speed := event.values.get("steps_per_second", 0.0)) > 0:
                metrics.steps_speed.labels(self._model).observe(speed)
        elif isinstance(event, Queued):
            self._over("retried")
            metrics.retries.labels(PANEL, metrics.reason_of(self._execution.retry_reason)).inc()
        elif isinstance(event, (Finished, Failed)):
            self._over(_ended(metrics, event))

    def _over(self, outcome: str) -> None:
        seconds = time.monotonic() - self._began
        self._metrics.running_seconds.labels(PANEL, outcome).observe(seconds)
        self._say("attempt %d %s after %.2f s", self._execution.job.attempts, outcome, seconds)

    def _say(self, message: str, *values: object) -> None:
        runner = self._execution.held.runner
        log.info(message, *values, extra={
            "job_id": self._execution.job.id, "model": self._execution.job.spec.model,
            "runner_id": runner.id if runner is not None else None})


def _ended(metrics: Metrics, event: Finished | Failed) -> str:
    """Count the end of a job; its outcome as a label value."""
    outcome = "failed" if isinstance(event, Failed) else "cancelled" if event.reason == "cancelled" else "succeeded"
    metrics.ended.labels(PANEL, outcome).inc()
    if isinstance(event, Failed):
        metrics.failures.labels(PANEL, metrics.reason(event)).inc()
    return outcome


def _waited(job: Job) -> float:
    return max(0.0, time.time() - job.created_at.timestamp())
