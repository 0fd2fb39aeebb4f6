"""Weights in Python's pickle format: seen, never loaded. Reading such a file can run any code that is in it."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
"""Endings under which pickled weights are known."""


def is_pickled(path: Path) -> bool:
    """Whether a file with one of those endings begins as torch writes its pickles: a zip archive, or a bare pickle of
    protocol 2 to 5. Raises OSError."""
    if path.suffix.lower() not in PICKLES:
        return False
    with path.open("rb") as file:
        head = file.read(4)
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def told_pickled(path: Path) -> str:
    """Why the weights at `path`, a file or a folder, are not used, and what to do."""
    return ("pickled weights, which are not loaded because they can run code; convert them to safetensors with: "
            f"diptych models convert {shlex.quote(str(path))}")


def pickled_among(folder: Path, names: Collection[str]) -> list[Path]:
    """Those of the files `names` of a folder that hold pickled weights and were not converted; those that cannot be
    read are left out."""
    found = []
    for name in sorted(names):
        try:
            converted = f"{Path(name).stem}.safetensors" in names or (
                Path(name).stem == "pytorch_model" and "model.safetensors" in names)
            if not name.startswith(".") and not converted and is_pickled(folder / name):
                found.append(folder / name)
        except OSError:
            continue
    return found
