"""Devices and their memory, read from trees of files as kernels lay them out, and from a management library."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from diptych.core.errors import InvalidRequest
from diptych.schedule.devices import DeviceMemory, cgroup_limit, cpu_memory, find_devices, memory_budgets
from diptych.settings import Settings

GB = 2**30


def lay(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


V2 = {"proc/self/cgroup": "0::/user/app", "sys/fs/cgroup/memory.max": "max"}
V1 = {"proc/self/cgroup": "11:cpu,cpuacct:/x\n5:memory:/docker/abc\n0::/"}
LIMITS: dict[str, tuple[dict[str, object], tuple[int, int] | None]] = {
    "version 2, own group": (
        {**V2, "sys/fs/cgroup/user/app/memory.max": 4 * GB, "sys/fs/cgroup/user/app/memory.current": 3 * GB,
         "sys/fs/cgroup/user/app/memory.stat": f"anon 7\ninactive_file {GB}\nactive_file 9"}, (4 * GB, 2 * GB)),
    "version 2, a group above it": (
        {**V2, "sys/fs/cgroup/user/app/memory.max": "max", "sys/fs/cgroup/user/memory.max": 8 * GB,
         "sys/fs/cgroup/user/memory.current": GB}, (8 * GB, GB)),
    "version 2, the tightest of two": (
        {**V2, "sys/fs/cgroup/user/app/memory.max": 8 * GB, "sys/fs/cgroup/user/memory.max": 4 * GB}, (4 * GB, 0)),
    "version 2, inside a container": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 2 * GB, "sys/fs/cgroup/memory.current": GB},
        (2 * GB, GB)),
    "version 2 beside version 1": (
        {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/unified/a/memory.max": GB}, (GB, 0)),
    "version 1": (
        {**V1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 3 * GB,
         "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": 2 * GB,
         "sys/fs/cgroup/memory/docker/abc/memory.stat": f"cache 1\ntotal_inactive_file {GB}"}, (3 * GB, GB)),
    "version 1, only the top is there": ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": GB}, (GB, 0)),
    "no limit": (V2, None),
    "no control groups": ({}, None),
    "nonsense": ({"proc/self/cgroup": "0::/../..\n\n:\nx", "sys/fs/cgroup/memory.max": "-1"}, None),
}


@pytest.mark.parametrize(("files", "limit"), LIMITS.values(), ids=LIMITS)
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, object], limit: tuple[int, int] | None) -> None:
    assert cgroup_limit(lay(tmp_path, files)) == limit


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    root = lay(tmp_path, {**V2, "sys/fs/cgroup/user/app/memory.max": GB, "sys/fs/cgroup/user/app/memory.current": GB})
    assert cpu_memory(root) == DeviceMemory(name="cpu", kind="cpu", total=GB, free=0, limit="control group")
    whole = cpu_memory(lay(tmp_path, {"sys/fs/cgroup/user/app/memory.max": 2**60}))
    assert (whole.total, whole.limit) == (psutil.virtual_memory().total, None)
    assert whole.free is not None and 0 < whole.free < whole.total


def card(number: int, vendor: str, **files: object) -> dict[str, object]:
    top = f"sys/class/drm/card{number}"
    found = {f"{top}/{name.replace('__', '/')}": text for name, text in files.items()}
    return {f"{top}/device/vendor": vendor, **found}


def test_amd_and_intel(tmp_path: Path) -> None:
    lay(tmp_path, {
        **card(10, "0x1002", device__mem_info_vram_total=16 * GB, device__mem_info_vram_used=GB,
               device__product_name="Radeon"),
        **card(2, "0x1002", device__mem_info_vram_total=8 * GB),
        **card(0, "0x8086"),  # graphics without memory of their own
        **card(1, "0x8086", lmem_total_bytes=12 * GB, lmem_avail_bytes=11 * GB),
        **card(3, "0x8086", device__tile0__physical_vram_size_bytes=6 * GB,
               device__tile1__physical_vram_size_bytes=6 * GB),
        **card(4, "0x1a03"), "sys/class/drm/card2-HDMI-A-1/status": "connected"})
    found = find_devices(tmp_path, nvml=Nvml([]), system="Linux")[1:]
    assert [(one.name, one.kind, one.total // GB, one.free and one.free // GB, one.label) for one in found] == [
        ("xpu:0", "xpu", 12, 11, ""), ("rocm:0", "rocm", 8, None, ""), ("xpu:1", "xpu", 12, None, ""),
        ("rocm:1", "rocm", 16, 15, "Radeon")]


@dataclass
class Nvml:
    """The answers of NVIDIA's management library for cards of (label, total, free)."""

    cards: list[tuple[str | bytes, int, int]]
    driver: bool = True

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if not self.cards[index][1]:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=self.cards[handle][1], free=self.cards[handle][2])

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return self.cards[handle][0]


def test_nvidia(tmp_path: Path) -> None:
    found = find_devices(tmp_path, nvml=Nvml([("A", 24 * GB, 20 * GB), (b"B", 8 * GB, 8 * GB), ("C", 0, 0)]))
    assert [(one.name, one.label, one.total, one.free) for one in found[1:]] == [
        ("cuda:0", "A", 24 * GB, 20 * GB), ("cuda:1", "B", 8 * GB, 8 * GB)]
    assert [one.name for one in find_devices(tmp_path, nvml=Nvml([], driver=False), system="Linux")] == ["cpu"]


def test_apple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    cpu, mps = find_devices(tmp_path, nvml=Nvml([]), system="Darwin")
    assert (mps.name, mps.total, mps.unified) == ("mps", cpu.total, True)
    assert memory_budgets(Settings(devices=("mps",)), [cpu, mps]) == {"cpu": int(cpu.total * 0.8)}


def test_this_machine_without_torch() -> None:
    script = ("import sys; from diptych.schedule.devices import find_devices;"
              "print(*(one.name for one in find_devices()));"
              "assert not {'torch', 'xllamacpp'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "cpu"


def test_budgets() -> None:
    found = [DeviceMemory(name="cpu", kind="cpu", total=100),
             DeviceMemory(name="cuda:0", kind="cuda", total=50, free=20),
             DeviceMemory(name="xpu:0", kind="xpu", total=40)]
    assert memory_budgets(Settings(), found) == {"cpu": 80}
    assert memory_budgets(Settings(memory_bytes=7, devices=("cuda:0", "xpu:0", "cpu")), found) == {
        "cpu": 7, "cuda:0": 19, "xpu:0": 38}
    with pytest.raises(InvalidRequest) as refused:
        memory_budgets(Settings(devices=("cuda:1",)), found)
    assert refused.value.param == "devices"
    assert "cuda:1" in refused.value.message and "cpu, cuda:0, xpu:0" in refused.value.message
