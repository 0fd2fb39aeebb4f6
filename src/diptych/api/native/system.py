"""`/api/system` and `/health`."""

from __future__ import annotations

import asyncio
import os
import time

from fastapi import APIRouter

import diptych
from diptych.api.native.convert import queued_view
from diptych.api.native.schema import Device, Health, SystemView
from diptych.api.services import Having, Services

router = APIRouter(tags=["system"])
SHOWN_JOBS = 1000


@router.get("/api/system")
async def system(services: Having) -> SystemView:
    """The machine, the processes that hold models, and the queue."""
    queue = await services.dispatcher.queue()
    counts = await asyncio.to_thread(services.store.counts)
    return SystemView(
        version=diptych.__version__, uptime_seconds=_uptime(), devices=[_cpu(services)],
        runners=services.dispatcher.runners(), queue=[queued_view(*item) for item in queue[:SHOWN_JOBS]],
        jobs={state.value: count for state, count in counts.items()})


@router.get("/health")
async def health() -> Health:
    """That the server answers."""
    return Health(version=diptych.__version__)


def _cpu(services: Services) -> Device:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    return Device(
        name="cpu", cores=cores, threads=services.settings.threads or cores, memory_total=memory.total,
        memory_free=memory.available, memory_for_models=services.dispatcher.memory_budget)


def _uptime() -> float:
    import psutil

    return round(time.time() - psutil.Process().create_time(), 3)
