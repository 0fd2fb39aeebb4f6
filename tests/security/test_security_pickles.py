"""Pickled weights: never loaded, told with what to do, converted without running what is in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from secured import diptych

from diptych.library import Library
from diptych.settings import Settings


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._file),)


def problems(folder: Path) -> list[str]:
    library = Library(Settings(data_dir=folder / "data", model_dirs=(folder / "models",)))
    assert not [card for card in library.cards() if card.path.startswith(str(folder))]
    return [line for line in library.problems() if line.startswith(str(folder))]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "M.PTH", "pytorch_model.bin"])
def test_the_library_says_what_to_do(tmp_path: Path, models: Path, name: str) -> None:
    torch.save({"a": torch.zeros(2)}, models / name)
    (models / "plain.bin").write_bytes(b"no pickle at all")
    (line,) = problems(tmp_path)
    assert "can run code" in line
    assert f"diptych models convert {models / name}" in line


def test_a_trap_is_neither_loaded_nor_converted(tmp_path: Path, models: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "trap": Trap(sprung)}, models / "zip.ckpt")
    (models / "bare.pt").write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    assert len(problems(tmp_path)) == 2
    for name in ("zip.ckpt", "bare.pt"):
        done = diptych(tmp_path, "models", "convert", models / name)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "holds more than weights" in done.stderr
    assert not sprung.exists()
    assert sorted(file.name for file in models.iterdir()) == ["bare.pt", "zip.ckpt"]
    pickle.loads((models / "bare.pt").read_bytes())
    assert sprung.exists()  # the trap works: it was not sprung before


def test_conversion(tmp_path: Path, models: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": weight, "tied": weight, "half": weight.half(), "turned": weight.T}, "epoch": 3},
               models / "m.ckpt")
    done = diptych(tmp_path, "models", "convert", models / "m.ckpt")
    assert done.returncode == 0, done.stderr
    found = load_file(models / "m.safetensors")
    assert set(found) == {"a", "tied", "half", "turned"}
    assert torch.equal(found["turned"], weight.T)
    assert problems(tmp_path) == []  # converted: nothing to tell any more
    assert diptych(tmp_path, "models", "convert", models / "m.ckpt").returncode == 1
    (models / "cut.ckpt").write_bytes((models / "m.ckpt").read_bytes()[:300])
    done = diptych(tmp_path, "models", "convert", models / "cut.ckpt")
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)


def test_a_folder_of_parts(tmp_path: Path, models: Path) -> None:
    for part, name in (("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
        (models / part).mkdir()
        torch.save({"w": torch.ones(3)}, models / part / name)
    assert diptych(tmp_path, "models", "convert", models).returncode == 0
    assert (models / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (models / "text_encoder" / "model.safetensors").is_file()
    assert diptych(tmp_path, "models", "convert", models).returncode == 1
