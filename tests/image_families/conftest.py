"""Tiny models of all families, and engines that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_families
import torch
from family_studio import FamilyStudio

WRITERS = {"sdxl": tiny_families.write_sdxl, "refiner": tiny_families.write_refiner,
           "inpaint": tiny_families.write_inpaint, "sd3": tiny_families.write_sd3, "flux": tiny_families.write_flux,
           "pixart": tiny_families.write_pixart}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders by name, each written once."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        return root / name if (root / name).is_dir() else WRITERS[name](root / name)

    return folder


@pytest.fixture(scope="session")
def studio_of(
    folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], FamilyStudio]]:
    """Engines by the names of folders, each opened once."""
    opened: dict[str, FamilyStudio] = {}

    def studio(name: str) -> FamilyStudio:
        if name not in opened:
            opened[name] = FamilyStudio(folder_of(name), tmp_path_factory.mktemp(name))
        return opened[name]

    yield studio
    for one in opened.values():
        one.engine.close()
