"""Prometheus metrics with a registry of their own. Labels are few and bounded: no ids, no raw paths, no callers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import diptych
from diptych.core.events import Failed

WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SPEED_BUCKETS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
KNOWN_VALUES = 200
"""Values one label may take before further ones become "other"; models on disk and fault codes are fewer."""
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Bounded:
    """Label values that come from outside of the code: the first so many are kept, the others become "other"."""

    def __init__(self, limit: int = KNOWN_VALUES) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= self._limit:
                return "other"
            self._seen.add(value)
        return value


class Metrics:
    """What the gateway counts while it works. State that can be looked up when it is asked for is in `snapshot.py`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.model, self._reason = Bounded(), Bounded(50)
        self._http()
        self._jobs()
        self._text()
        Info("diptych_build", "Version of Diptych and of Python", registry=self.registry).info(
            {"version": diptych.__version__, "python": ".".join(map(str, sys.version_info[:3]))})
        _process(self.registry)

    def routed(self, model: str, outcome: str) -> None:
        """One attempt with a target of a route."""
        self.route_attempts.labels(self.model(model), outcome).inc()

    def reason(self, failed: Failed) -> str:
        """The fault's code as a label value."""
        return self.reason_of(failed.code)

    def reason_of(self, code: str | None) -> str:
        return self._reason(code) if code and _CODE.fullmatch(code) else "unknown"

    def _http(self) -> None:
        labels = ["method", "route", "status"]
        self.http_requests = Counter(
            "diptych_http_requests", "HTTP requests answered, by route template", labels, registry=self.registry)
        self.http_seconds = Histogram(
            "diptych_http_request_seconds", "From a request's first byte to the last of its answer; streams are long",
            labels[:2], buckets=HTTP_BUCKETS, registry=self.registry)
        self.http_open = Gauge("diptych_http_requests_open", "HTTP requests being answered", registry=self.registry)

    def _jobs(self) -> None:
        by_model = ["panel", "model"]
        self.waiting_seconds = Histogram(
            "diptych_job_waiting_seconds", "From a job's acceptance to the begin of its first attempt",
            ["panel", "priority"], buckets=WAIT_BUCKETS, registry=self.registry)
        self.running_seconds = Histogram(
            "diptych_job_running_seconds", "Length of attempts that ended in a result, a fault or a cancel",
            ["panel", "outcome"], buckets=WAIT_BUCKETS, registry=self.registry)
        self.attempts = Counter("diptych_job_attempts", "Attempts begun", by_model, registry=self.registry)
        self.retries = Counter(
            "diptych_job_retries", "Attempts that failed and are followed by another", ["panel", "reason"],
            registry=self.registry)
        self.failures = Counter(
            "diptych_job_failures", "Jobs and live answers that ended in a fault", ["panel", "reason"],
            registry=self.registry)
        self.ended = Counter(
            "diptych_jobs_ended", "Jobs and live answers that have ended", ["panel", "outcome"],
            registry=self.registry)
        self.pictures = Counter("diptych_pictures", "Pictures made", ["model"], registry=self.registry)
        self.steps = Counter("diptych_steps", "Denoising steps made, over all pictures", ["model"],
                             registry=self.registry)
        self.steps_speed = Histogram(
            "diptych_steps_per_second", "Speed of image jobs over their whole run", ["model"], buckets=SPEED_BUCKETS,
            registry=self.registry)

    def _text(self) -> None:
        self.tokens = Counter("diptych_tokens", "Tokens read (in) and written (out)", ["model", "direction"],
                              registry=self.registry)
        self.route_attempts = Counter(
            "diptych_route_attempts", "Attempts with a target of a route, by what became of them", ["model", "outcome"],
            registry=self.registry)
        self.answers_running = Gauge("diptych_text_answers_running", "Live answers accepted and not yet ended",
                                     registry=self.registry)
        self.first_token_seconds = Histogram(
            "diptych_time_to_first_token_seconds", "From a text request's acceptance to its first piece of text",
            ["model"], buckets=FIRST_TOKEN_BUCKETS, registry=self.registry)
        self.tokens_speed = Histogram(
            "diptych_tokens_per_second", "Speed of one answer after its first token", ["model"],
            buckets=SPEED_BUCKETS, registry=self.registry)


class Resident(Collector):
    """Memory and processor time of this process, where `ProcessCollector` has no source for them (not Linux)."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        process = psutil.Process()
        times = process.cpu_times()
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory", process.memory_info().rss)
        yield CounterMetricFamily("process_cpu_seconds", "Processor time", times.user + times.system)
        yield GaugeMetricFamily("process_start_time_seconds", "Start, seconds since 1970", process.create_time())


def _process(registry: CollectorRegistry) -> None:
    if sys.platform == "linux":
        ProcessCollector(registry=registry)
    else:
        registry.register(Resident())
