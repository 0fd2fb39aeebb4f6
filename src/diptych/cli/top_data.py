"""What `diptych top` shows: read from the server's HTTP API, one sample at a time. Speeds come from two samples."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from diptych.cli.errors import CliError, ServerError

if TYPE_CHECKING:
    from diptych.cli.client import Api

RECENT_JOBS = 12
WINDOW_SECONDS = 5.0
"""Speeds are means over about this time."""
COUNTERS = {"steps_per_second": ("diptych_steps_total", {}),
            "pictures_per_second": ("diptych_pictures_total", {}),
            "tokens_per_second": ("diptych_tokens_total", {"direction": "out"})}
MEANS = {"steps_per_second": "diptych_steps_per_second", "tokens_per_second": "diptych_tokens_per_second"}

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Samples of `/metrics` by name and labels."""


@dataclass(frozen=True)
class Sample:
    """One look at the server. `values` is None where the key may not read the metrics."""

    at: float
    system: dict[str, Any]
    running: list[dict[str, Any]]
    recent: list[dict[str, Any]]
    values: Values | None


def sample(api: Api) -> Sample:
    """Ask the server. Raises CliError when it does not answer, or answers something else."""
    system = api.system()
    running, recent = api.jobs("running", 100), api.jobs(None, RECENT_JOBS)
    try:
        values = parse(api.bytes("/metrics").decode())
    except ServerError as error:
        if error.http_status not in (401, 403):
            raise
        values = None
    for name in ("devices", "runners", "queue", "jobs"):
        if name not in system:
            raise CliError(f"what answers at {api.url} is no Diptych server (unexpected answer)")
    return Sample(time.monotonic(), system, running, recent, values)


def parse(text: str) -> Values:
    """Raises CliError when `text` is not in Prometheus' format."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return {(one.name, tuple(sorted(one.labels.items()))): one.value
                for family in text_string_to_metric_families(text) for one in family.samples}
    except ValueError as error:
        raise CliError(f"the server's metrics cannot be read: {error}") from error


class Window:
    """The samples of the last seconds."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._samples: deque[Sample] = deque()

    def add(self, new: Sample) -> None:
        if self._samples and _total(new, "diptych_http_requests_total") < _total(
                self._samples[-1], "diptych_http_requests_total"):
            self._samples.clear()  # another process counts from nothing
        self._samples.append(new)
        while len(self._samples) > 2 and new.at - self._samples[1].at >= self._seconds:
            self._samples.popleft()

    def clear(self) -> None:
        self._samples.clear()

    def speeds(self) -> dict[str, float | None]:
        """Now; None where nothing can be said yet."""
        if len(self._samples) < 2:
            return dict.fromkeys(COUNTERS)
        first, last = self._samples[0], self._samples[-1]
        if first.values is None or last.values is None:
            return dict.fromkeys(COUNTERS)
        seconds = last.at - first.at
        return {name: max(0.0, _total(last, counter, **labels) - _total(first, counter, **labels)) / seconds
                for name, (counter, labels) in COUNTERS.items()}


def _total(one: Sample, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (found, having), value in (one.values or {}).items()
               if found == name and wanted <= set(having))


def means(values: Values | None) -> list[dict[str, Any]]:
    """Mean speed of all that a model has done since the server began: `model`, `unit`, `mean`, `count`."""
    found = []
    for unit, name in MEANS.items():
        for (sample_name, labels), count in (values or {}).items():
            if sample_name == f"{name}_count" and count > 0:
                total = (values or {})[f"{name}_sum", labels]
                found.append({"model": dict(labels)["model"], "unit": unit, "mean": total / count,
                              "count": int(count)})
    return sorted(found, key=lambda one: (one["unit"], one["model"]))


def frame(server: str, last: Sample, window: Window) -> dict[str, Any]:
    """Everything a frame shows, as JSON values."""
    system = last.system
    return {
        "server": server, "version": system.get("version"), "uptime_seconds": system.get("uptime_seconds"),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "devices": system["devices"],
        "runners": system["runners"], "jobs": system["jobs"],
        "running": [{**job, "eta_seconds": eta(job)} for job in last.running], "queue": system["queue"],
        "recent": [job for job in last.recent if job["state"] in ("succeeded", "failed", "cancelled")],
        "speeds": window.speeds(), "means": means(last.values),
        "answers_running": None if last.values is None else int(_total(last, "diptych_text_answers_running")),
    }


def eta(job: dict[str, Any]) -> float | None:
    """Seconds until a running job will be done, from what it has done so far."""
    done, began = float(job.get("progress") or 0.0), job.get("started_at")
    if not began or done <= 0:
        return None
    return max(0.0, _age(began) * (1 - done) / done)


def _age(moment: str) -> float:
    then = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max(0.0, (datetime.now(timezone.utc) - then).total_seconds())
