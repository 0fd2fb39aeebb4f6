"""The devices that models run on, as they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.api.native.schema import Device
from diptych.schedule.devices import DeviceMemory, cores
from diptych.schedule.leases import bytes_by_device

if TYPE_CHECKING:
    from diptych.api.services import Services


def devices(services: Services, found: list[DeviceMemory]) -> list[Device]:
    """All devices; `busy_percent` is measured since the last call.

    Args:
        found: what `find_devices` says.
    """
    return [_device(services, one) for one in found]


def _device(services: Services, one: DeviceMemory) -> Device:
    runners = services.dispatcher.runners()
    leased = bytes_by_device(lease for runner in runners for lease in runner.leases)
    device = Device(
        name=one.name, kind=one.kind, label=one.label, memory_total=one.total, memory_free=one.free,
        memory_for_models=services.dispatcher.memory_budgets.get(one.name, 0), memory_limit=one.limit,
        memory_leased=leased.get(one.name, 0))
    if one.kind != "cpu":
        return device
    usable = cores()
    return device.model_copy(update={
        "cores": usable, "threads": services.settings.threads or usable,
        "memory_measured": sum(runner.bytes_resident for runner in runners),
        "busy_percent": services.observer.busy.percent()})
