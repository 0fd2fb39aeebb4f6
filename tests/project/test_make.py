"""`make`'s helpers: what they say when something is missing. No installation takes place here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="make runs on POSIX systems")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what set-up reads, at a path with spaces."""
    copy = tmp_path / "a check out"
    copy.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "scripts", copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def make(checkout: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, timeout=60,
                          env={**environment, "HOME": str(checkout.parent), **({"PATH": path} if path else {})})


def tools(folder: Path) -> str:
    """A PATH with the ordinary programs and no Python."""
    folder.mkdir()
    for name in ("make", "sh", "cat", "cksum", "df", "awk", "dirname", "rm", "grep", "sed"):
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def test_help_lists_every_target(checkout: Path) -> None:
    done = make(checkout)
    assert done.returncode == 0
    for target in ("run", "demo", "test", "lint", "clean", "constraints"):
        assert f"make {target} " in done.stdout


def test_no_python(checkout: Path, tmp_path: Path) -> None:
    done = make(checkout, "run", path=tools(tmp_path / "bin"))
    assert done.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 found on the PATH" in done.stderr
    assert not (checkout / ".venv").exists()


def test_old_python_is_passed_over(checkout: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    program(tmp_path / "bin", "python3", "exit 1")
    done = make(checkout, "run", path=path)
    assert "no Python" in done.stderr


def test_no_venv_module(checkout: Path, tmp_path: Path) -> None:
    """Debian without python3-venv: the version is right, importing ensurepip fails."""
    path = tools(tmp_path / "bin")
    program(tmp_path / "bin", "python3", 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    done = make(checkout, "run", path=path)
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr


def test_wrong_python_named(checkout: Path) -> None:
    done = make(checkout, "run", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "PYTHON=no-such-python is no Python 3.11" in done.stderr


def test_full_disk(checkout: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin", "df", "printf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n'\n"
            "printf '/dev/x 1000000 900000 102400 90%% /\\n'")
    done = make(checkout, "run", f"PYTHON={sys.executable}", path=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if "disk" in line)
    assert "100 MB are free" in line
    assert "needs about" in line
    assert not (checkout / ".venv").exists()


def test_broken_environment_is_found(checkout: Path) -> None:
    """Packages are whole here; one whose list of files is gone is not."""
    whole = subprocess.run([sys.executable, "-m", "venv", str(checkout / ".venv")], timeout=120)
    assert whole.returncode == 0
    python = checkout / ".venv" / "bin" / "python"
    check = [str(python), str(checkout / "scripts" / "check_venv.py")]
    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0
    record = next((checkout / ".venv").glob("lib/python*/site-packages/pip-*.dist-info/RECORD"))
    record.unlink()
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "not whole" in done.stdout


def test_clean_keeps_the_sources(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
    assert (checkout / "scripts" / "setup.sh").exists()
