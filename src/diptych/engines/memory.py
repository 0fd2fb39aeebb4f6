"""Measured memory of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil


def resident_bytes() -> int:
    """Memory of this process that lies in RAM now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> bool:
    """Begin a new peak now. Only Linux can; False elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most that was resident since the process began, or since `reset_peak`.

    On Linux not `getrusage`: its maximum is inherited through `exec`, so a small child of a large parent reports the
    parent's size.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
