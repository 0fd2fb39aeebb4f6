"""What `diptych doctor` looks at. Each check gives findings and never raises."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.cli.output import human_bytes

if TYPE_CHECKING:
    from diptych.settings import Settings

Level = Literal["ok", "warn", "problem"]
GB = 1024**3
MIN_DISK, LOW_DISK = GB, 5 * GB
MIN_MEMORY, LOW_MEMORY = 2 * GB, 4 * GB


@dataclass(frozen=True)
class Finding:
    """`advice` says what to do about a warning or a problem."""

    name: str
    level: Level
    message: str
    advice: str = ""


def examine(settings: Settings, server: str | None) -> list[Finding]:
    """All findings about this machine, with a server at `server` or the one that runs on the data folder."""
    from diptych.cli.checks_packages import packages, threads, torch_flavour
    from diptych.cli.checks_server import models, server_health

    return [
        python_version(), *packages(), torch_flavour(), memory(), devices(settings), cores(settings), threads(),
        data_folder(settings.data_dir), disk(settings.data_dir), *models(settings), *server_health(settings, server),
    ]


def python_version() -> Finding:
    seen = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 11):  # the package itself runs on 3.10
        return Finding("Python", "warn", seen, "the tested versions of the image packages need Python 3.11 or newer")
    return Finding("Python", "ok", seen)


def memory() -> Finding:
    import psutil

    found = psutil.virtual_memory()
    seen = f"{human_bytes(found.total)}, {human_bytes(found.available)} available"
    if found.available < MIN_MEMORY:
        return Finding("memory", "problem", seen, "close other programs: a small text and a small image model "
                       f"together need about {human_bytes(MIN_MEMORY)}")
    if found.available < LOW_MEMORY:
        return Finding("memory", "warn", seen, "enough for the starter models; larger ones will not fit")
    return Finding("memory", "ok", seen)


def devices(settings: Settings) -> Finding:
    """The devices that this machine computes on, and whether the settings name what is there."""
    from diptych.core.errors import InvalidRequest
    from diptych.schedule.devices import find_devices, memory_budgets

    found = find_devices()
    seen = "; ".join(
        f"{one.name} {one.label}".rstrip() + f" {human_bytes(one.total)}"
        + ("" if one.free is None else f", {human_bytes(one.free)} free")
        + (f" (limit of the {one.limit})" if one.limit else "") for one in found)
    try:
        memory_budgets(settings, found)
    except InvalidRequest as error:
        return Finding("devices", "problem", f"{seen}; but {error.message}", "change the setting devices")
    unused = [one.name for one in found if one.name != "cpu" and one.name not in settings.devices]
    if unused:
        return Finding("devices", "warn", f"{seen}; {', '.join(unused)} is not used",
                       f"to use it for pictures, set devices to {unused[0]},cpu and install a torch for it")
    return Finding("devices", "ok", seen)


def cores(settings: Settings) -> Finding:
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = psutil.cpu_percent(interval=0.3)
    seen = f"{usable} usable, {busy:.0f} % busy now"
    if settings.threads > usable:
        return Finding("cores", "warn", f"{seen}, but the setting threads is {settings.threads}",
                       f"set threads to {usable} or less: more threads than cores slow each other down")
    if busy > 80:
        return Finding("cores", "warn", seen, "other programs use the processor: answers and pictures will be slow")
    return Finding("cores", "ok", seen)


def data_folder(folder: Path) -> Finding:
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(b"x")
    except OSError as error:
        return Finding("data folder", "problem", f"{folder} cannot be written: {error.strerror or error}",
                       "make it writable for you, or use another with --data-dir")
    return Finding("data folder", "ok", f"{folder} can be written")


def disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(_existing(folder)).free
    except OSError as error:
        return Finding("disk", "problem", f"{folder}: {error.strerror or error}", "use another folder with --data-dir")
    seen = f"{human_bytes(free)} free for {folder}"
    if free < MIN_DISK:
        return Finding("disk", "problem", seen, "free some space, or use a folder on another disk with --data-dir")
    if free < LOW_DISK:
        return Finding("disk", "warn", seen, "enough to begin with; models take several GB each")
    return Finding("disk", "ok", seen)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def run_python(code: str, timeout: float = 60.0) -> tuple[bool, str]:
    """Run `code` in a Python process of its own: `(it succeeded, its output or its last line of error)`.

    A process, because a broken binary package may kill the one that imports it, and because torch takes long.
    """
    import subprocess

    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {timeout:.0f} s"
    if done.returncode == 0:
        return True, done.stdout.strip()
    lines: list[Any] = done.stderr.strip().splitlines()
    return False, str(lines[-1]) if lines else f"the process ended with status {done.returncode}"
