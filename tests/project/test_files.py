"""Rules about the files that are tracked, and the papers of the project."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest

import diptych

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE = 50 * 1024 * 1024
MAX_LINES = 400
#: Absolute paths of somebody's machine. In pieces, so that this file does not break its own rule.
MACHINE_PATHS = re.compile(r"(?<![\w.~$}\"'/-])(?:/" + "root/|/" + "work/|/" + r"home/\w+/|/" + r"Users/\w+/)")


def tracked() -> list[Path]:
    """Tracked files, or those of the folder where the checkout has no git (a source archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def text_of(file: Path) -> str | None:
    raw = file.read_bytes()
    return None if b"\0" in raw[:8192] else raw.decode("utf-8", errors="replace")


def test_no_large_file_is_tracked() -> None:
    large = {str(file.relative_to(ROOT)): file.stat().st_size for file in tracked() if file.stat().st_size > MAX_FILE}
    assert not large


def test_no_path_of_a_machine_is_tracked() -> None:
    found = []
    for file in tracked():
        for number, line in enumerate((text_of(file) or "").splitlines(), 1):
            if MACHINE_PATHS.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_index_address_is_tracked() -> None:
    """Where packages come from is the user's own configuration."""
    option = re.compile(r"--(?:extra-)?index-url|--find-links|PIP_INDEX_URL")
    found = [str(file.relative_to(ROOT)) for file in tracked()
             if file.name != Path(__file__).name and option.search(text_of(file) or "")]
    assert not found


def test_source_files_are_small() -> None:
    sources = [file for file in tracked() if file.suffix == ".py" and "src" in file.relative_to(ROOT).parts]
    assert sources
    long = {str(file.relative_to(ROOT)): lines for file in sources
            if (lines := len(file.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not long


def test_version_is_the_same_everywhere() -> None:
    version = metadata("diptych")["Version"]
    assert diptych.__version__ == version
    assert re.search(rf"^## \[?{re.escape(version)}\b|^## \[Unreleased\].*\b{re.escape(version)}\b",
                     (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert metadata("diptych")["License-Expression"] == "Apache-2.0"


def test_every_requirement_is_pinned() -> None:
    """Each direct requirement has its tested version in constraints.txt, within the bounds pyproject.toml gives."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
                if line and not line.startswith("#"))
    folded = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    wanted = {re.match(r"[\w.-]+", text)[0] for text in metadata("diptych").get_all("Requires-Dist")}  # type: ignore[index]
    assert wanted
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} - {"diptych"} <= folded
    assert pins["torch"] == "2.13.0"


def test_readme_names_commands_that_exist() -> None:
    """Every `make x` and `diptych x` in the README and CONTRIBUTING is a target or a command."""
    from diptych.cli.main import app

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    assert {"run", "demo", "test"} <= targets
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"`[^`\n]+`|^(?: {4}|\t).+$", text, re.MULTILINE)) + "\n".join(
            re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets, name
        assert set(re.findall(r"(?:^|[`$ ])diptych ([a-z-]+)", code, re.MULTILINE)) <= commands, name
