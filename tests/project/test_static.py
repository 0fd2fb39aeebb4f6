"""ruff, mypy and import-linter, as the commands that `make lint` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "ruff": ["-m", "ruff", "check", "--no-cache", "."],
    "mypy": ["-m", "mypy", "--no-error-summary"],
    "import-linter": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_clean(name: str) -> None:
    done = subprocess.run([sys.executable, *COMMANDS[name]], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"


def test_ruff_sees_faults(tmp_path: Path) -> None:
    """The configuration is the one that is used: it finds an unused import."""
    file = tmp_path / "fault.py"
    file.write_text("import os\n")
    config = ["--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", *config, str(file)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "F401" in done.stdout
