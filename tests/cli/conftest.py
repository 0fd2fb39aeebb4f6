"""The real `diptych` process, with a data folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without any Diptych setting, and with `home` as the home folder."""
    clean = {key: value for key, value in os.environ.items()
             if not key.startswith(("DIPTYCH_", "XDG_")) and key not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}
    return {**clean, "HOME": str(home), "COLUMNS": "100", "TERM": "dumb", **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diptych", *map(str, arguments)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `diptych` with these arguments to its end. Its home folder is empty; standard input is closed."""

    def runs(*arguments: object, stdin: str | None = None, timeout: float = 120,
             **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(command(*arguments), text=True, capture_output=True, timeout=timeout,
                              cwd=tmp_path, env=environment(tmp_path, **variables), **given)  # type: ignore[call-overload, no-any-return]

    return runs
