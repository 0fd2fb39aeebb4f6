"""`/api/system` and `/health`."""

from __future__ import annotations

import asyncio
import time

import psutil
from fastapi import APIRouter

import diptych
from diptych.api.native.convert import queued_view
from diptych.api.native.devices import devices
from diptych.api.native.schema import Health, SystemView
from diptych.api.services import Having, Who
from diptych.schedule.devices import find_devices

router = APIRouter(tags=["system"])
SHOWN_JOBS = 1000


@router.get("/api/system")
async def system(services: Having, who: Who) -> SystemView:
    """The machine, the processes that hold models, and the queue; without the scope admin only own jobs in it."""
    queue = [item for item in await services.dispatcher.queue() if who.sees(item[0].caller)]
    found = await asyncio.to_thread(find_devices)
    counts = await asyncio.to_thread(services.store.counts)
    return SystemView(
        version=diptych.__version__, uptime_seconds=_uptime(), devices=devices(services, found),
        runners=services.dispatcher.runners(), queue=[queued_view(*item) for item in queue[:SHOWN_JOBS]],
        jobs={state.value: count for state, count in counts.items()})


@router.get("/health")
async def health() -> Health:
    """That the process lives and answers; whether it can take work is for `/ready` to say."""
    return Health(version=diptych.__version__)


def _uptime() -> float:
    return round(time.time() - psutil.Process().create_time(), 3)
