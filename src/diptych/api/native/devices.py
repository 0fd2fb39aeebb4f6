"""The devices that models run on, as they are now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil

from diptych.api.native.schema import Device

if TYPE_CHECKING:
    from diptych.api.services import Services


def devices(services: Services) -> list[Device]:
    """All devices; `busy_percent` is measured since the last call."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    runners = services.dispatcher.runners()
    return [Device(
        name="cpu", cores=cores, threads=services.settings.threads or cores, memory_total=memory.total,
        memory_free=memory.available, memory_for_models=services.dispatcher.memory_budget,
        memory_leased=sum(runner.bytes_leased for runner in runners),
        memory_measured=sum(runner.bytes_resident for runner in runners),
        busy_percent=services.observer.busy.percent())]
