"""Log files of runner processes: one each, the oldest removed, their last lines as the reason of a failure."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

KEPT_LOGS = 30
TAIL_BYTES = 16 * 1024
MAX_GIST = 300
"""Characters."""


def prune_logs(folder: Path, keep: int = KEPT_LOGS) -> None:
    """Remove all but the `keep` newest `runner-*.log` of `folder`."""
    found: list[tuple[float, Path]] = []
    for path in folder.glob("runner-*.log"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found, reverse=True)[keep:]:
        with contextlib.suppress(OSError):
            path.unlink()


def last_words(path: Path) -> str:
    """The last line of a log that says something: of a traceback that is the exception. Empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    # Indented lines are a traceback's places in the code; they do not say what happened.
    said = [line.strip() for line in lines if line.strip() and not line.startswith((" ", "\t"))]
    return _message(said[-1])[:MAX_GIST] if said else ""


def _message(line: str) -> str:
    """What a line says: of a JSON line its message and the exception in short; what native code prints is plain."""
    try:
        found = json.loads(line)
        return ": ".join(str(found[name]) for name in ("message", "error") if name in found)
    except (ValueError, TypeError):
        return line
