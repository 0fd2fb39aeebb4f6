"""Metrics of the state as it is when they are asked for: jobs, queue, runners, memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from diptych.api.native.devices import devices
from diptych.api.native.schema import Device
from diptych.api.observe.jobs import PANEL
from diptych.api.observe.metrics import Metrics
from diptych.core.jobs import JobState, Priority
from diptych.schedule.devices import find_devices
from diptych.schedule.pool import RunnerInfo

if TYPE_CHECKING:
    from diptych.api.services import Services

FRESH_SECONDS = 1.0
"""Counting all jobs of a long history takes a moment: no more often than this."""


@dataclass(frozen=True)
class Snapshot(Collector):
    """What `/metrics` tells beside the counters."""

    metrics: Metrics
    jobs: dict[JobState, int]
    lengths: dict[Priority, int]
    runners: list[RunnerInfo]
    devices: list[Device]
    draining: bool

    def collect(self) -> Iterator[Metric]:
        yield from self.metrics.registry.collect()
        jobs = GaugeMetricFamily("diptych_jobs", "Jobs on record, by state", labels=["state", "panel"])
        for state, count in self.jobs.items():
            jobs.add_metric([state.value, PANEL], count)
        queue = GaugeMetricFamily("diptych_queue_length", "Jobs that wait, by class", labels=["priority"])
        for priority, count in self.lengths.items():
            queue.add_metric([priority.value], count)
        yield from (jobs, queue, *self._runners(), *self._memory())
        yield GaugeMetricFamily("diptych_draining", "1 while the server ends and takes no new work", self.draining)

    def _runners(self) -> Iterator[Metric]:
        found = GaugeMetricFamily("diptych_runners", "Runner processes, by state", labels=["engine", "state"])
        for (engine, state), count in Counter((one.engine or "unknown", one.state) for one in self.runners).items():
            found.add_metric([engine, state], count)
        sizes = GaugeMetricFamily("diptych_runner_resident_bytes", "Measured memory of a model's runner",
                                  labels=["model"])
        for one in self.runners:
            sizes.add_metric([self.metrics.model(one.model)], one.bytes_resident)
        yield from (found, sizes)

    def _memory(self) -> Iterator[Metric]:
        names = {"leased": "Memory promised to models", "measured": "Memory that runners were measured to hold",
                 "budget": "Memory that all models together may use"}
        for name, text in names.items():
            family = GaugeMetricFamily(f"diptych_memory_{name}_bytes", text, labels=["device"])
            for device in self.devices:
                value = {"leased": device.memory_leased, "measured": device.memory_measured,
                         "budget": device.memory_for_models}[name]
                family.add_metric([device.name], value)
            yield family


class Snapshots:
    """Takes snapshots, and keeps the counts of the last for a moment. Belongs to one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._counted = -FRESH_SECONDS
        self._counts: tuple[dict[JobState, int], dict[Priority, int]] = ({}, {})

    async def take(self, services: Services, draining: bool) -> Snapshot:
        """Raises Unavailable when the database cannot be read."""
        async with self._lock:
            if time.monotonic() - self._counted >= FRESH_SECONDS:
                self._counts = await asyncio.to_thread(
                    lambda: (services.store.counts(), services.store.queue_lengths()))
                self._counted = time.monotonic()
        found = await asyncio.to_thread(find_devices)
        return Snapshot(services.observer.metrics, *self._counts, services.dispatcher.runners(),
                        devices(services, found), draining)
