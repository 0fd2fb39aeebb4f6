"""The devices of this machine and their memory, read without torch: from NVIDIA's management library, from sysfs, from
the operating system. What is not there is not listed."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from diptych.core.errors import InvalidRequest
from diptych.settings import Settings

DeviceKind = Literal["cpu", "cuda", "rocm", "xpu", "mps"]
CPU_SHARE, ACCELERATOR_SHARE = 0.8, 0.95
"""Of a device's memory, what models may use unless the operator says otherwise: of an accelerator, of what was free."""
AMD, INTEL = "0x1002", "0x8086"

log = logging.getLogger("diptych.devices")


class DeviceMemory(BaseModel):
    """Bytes of one device. `free` is None where the driver does not tell. `limit` says what bounds `total` if that is
    not the hardware. `unified`: it is the same memory as the CPU's."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: DeviceKind
    label: str = ""
    total: int
    free: int | None = None
    limit: str | None = None
    unified: bool = False


def find_devices(root: Path = Path("/"), nvml: Any = None, system: str | None = None) -> list[DeviceMemory]:
    """All devices, the CPU first.

    Args:
        root: of the file system that /proc and /sys are read from.
        nvml: the module pynvml, or one like it; imported when left out.
        system: what `platform.system()` says.
    """
    cpu = cpu_memory(root)
    return [cpu, *cuda_memory(nvml), *drm_memory(root), *mps_memory(cpu, system or platform.system())]


def cpu_memory(root: Path = Path("/")) -> DeviceMemory:
    """The machine's memory, or the container's where that has less."""
    memory = psutil.virtual_memory()
    limit = cgroup_limit(root)
    if limit is None or limit[0] >= memory.total:
        return DeviceMemory(name="cpu", kind="cpu", total=memory.total, free=memory.available)
    total, used = limit
    free = min(memory.available, max(0, total - used))
    return DeviceMemory(name="cpu", kind="cpu", total=total, free=free, limit="control group")


def cgroup_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """`(limit, used)` in bytes of the tightest control group around this process, of version 2 or 1; None without one.
    File pages that can be given back do not count as used."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file ")
            # Version 2 alone, or beside version 1.
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            tops = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        found += [limit for top in tops for folder in _up(top, path) if (limit := _limit(folder, *names))]
    return min(found, default=None)


def _up(top: Path, path: str) -> list[Path]:
    """The group's folder and all above it: each may have a limit. Inside a container only the top may be there."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return [top.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def _limit(folder: Path, limit_name: str, used_name: str, cache_name: str) -> tuple[int, int] | None:
    limit, used = _number(folder / limit_name), _number(folder / used_name) or 0
    if limit is None:  # "max", or no such group
        return None
    cache = 0
    for line in _text(folder / "memory.stat").splitlines():
        if line.startswith(cache_name):
            with contextlib.suppress(ValueError):
                cache = int(line.split()[1])
    return limit, max(0, used - cache)


def cuda_memory(nvml: Any = None) -> list[DeviceMemory]:
    """NVIDIA's devices, by the management library that comes with the driver; none without one."""
    nvml = nvml or _nvml()
    if nvml is None:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    found = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory, label = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
            found.append(DeviceMemory(
                name=f"cuda:{index}", kind="cuda", label=label.decode() if isinstance(label, bytes) else str(label),
                total=int(memory.total), free=int(memory.free)))
    except nvml.NVMLError as error:
        log.warning("a CUDA device could not be read: %s", error)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    return found


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def drm_memory(root: Path = Path("/")) -> list[DeviceMemory]:
    """AMD's and Intel's graphics cards with memory of their own, by the files of their kernel drivers (amdgpu, i915,
    xe). Numbered in the order of their cards, which is that of the drivers."""
    cards = [path for path in (root / "sys/class/drm").glob("card*") if re.fullmatch(r"card\d+", path.name)]
    found: list[DeviceMemory] = []
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        vendor = _text(card / "device/vendor").strip()
        kind: DeviceKind = "rocm" if vendor == AMD else "xpu"
        memory = _amd(card) if vendor == AMD else _intel(card) if vendor == INTEL else None
        if memory is not None:
            number = sum(one.kind == kind for one in found)
            label = _text(card / "device/product_name").strip()
            found.append(DeviceMemory(name=f"{kind}:{number}", kind=kind, label=label, total=memory[0], free=memory[1]))
    return found


def _amd(card: Path) -> tuple[int, int | None] | None:
    total, used = (_number(card / f"device/mem_info_vram_{name}") for name in ("total", "used"))
    return None if not total else (total, None if used is None else max(0, total - used))


def _intel(card: Path) -> tuple[int, int | None] | None:
    """None for graphics without memory of their own. The driver xe tells no free memory."""
    total = _number(card / "lmem_total_bytes")
    if total:
        return total, _number(card / "lmem_avail_bytes")
    tiles = [_number(path) or 0 for path in sorted((card / "device").glob("tile*/physical_vram_size_bytes"))]
    return (sum(tiles), None) if sum(tiles) else None


def mps_memory(cpu: DeviceMemory, system: str) -> list[DeviceMemory]:
    """Apple's graphics processor, which works in the machine's own memory."""
    if system != "Darwin" or platform.machine() not in ("arm64", "aarch64"):
        return []
    return [DeviceMemory(name="mps", kind="mps", label="Apple", total=cpu.total, free=cpu.free, unified=True)]


def memory_budgets(settings: Settings, found: list[DeviceMemory]) -> dict[str, int]:
    """Bytes that models may use, by device: of the CPU, and of every device that the settings name.

    Raises:
        InvalidRequest: a device of the settings is not there; names those that are.
    """
    known = {device.name: device for device in found}
    missing = [name for name in settings.devices if name not in known]
    if missing:
        raise InvalidRequest(f"devices has {missing[0]!r}, which this machine does not have; it has: "
                             f"{', '.join(known)}", param="devices")
    budgets = {"cpu": settings.memory_bytes or int(known["cpu"].total * CPU_SHARE)}
    for name in settings.devices:
        device = known[name]
        if name != "cpu" and not device.unified:
            budgets[name] = int((device.total if device.free is None else device.free) * ACCELERATOR_SHARE)
    return budgets


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
