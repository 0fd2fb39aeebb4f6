"""What models of these families will need, from their files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ldm_layout
import pytest

from diptych.core.cards import Card
from diptych.library.checkpoint import identify_checkpoint
from diptych.library.identify import identify_diffusers
from diptych.schedule.estimate import Estimator
from diptych.schedule.shapes import image_shape
from diptych.settings import Settings


def weights_of(card: Card) -> int:
    """Bytes of the largest batch's lease of weights on the CPU."""
    leases = Estimator(Settings(), {}).placements(card)[0].leases
    return next(lease.bytes for lease in leases if lease.kind == "weights")


@pytest.mark.parametrize("half", [True, False])
def test_files_are_computed_in_float32(tmp_path: Path, half: bool) -> None:
    file = tmp_path / "xl.safetensors"
    values = ldm_layout.write(file, ldm_layout.small("sdxl"), half=half)
    card = identify_checkpoint(file)
    assert card is not None and card.parameters == values and weights_of(card) == 4 * values


def test_shapes(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "refiner.safetensors"
    ldm_layout.write(file, ldm_layout.small("sdxl-refiner"))
    shape = image_shape(file)
    assert shape is not None and (shape.channels, shape.vae_channels, shape.factor) == (64, 64, 2)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:100])
    assert image_shape(tmp_path / "cut.safetensors") is None
    for name, channels in (("sdxl", 16), ("sd3", 32 // 4), ("flux", 32 // 4), ("pixart", 32 // 4)):
        found = image_shape(folder_of(name))
        assert found is not None and (found.channels, found.factor) == (channels, 2), name


def test_pipelines_paint_one_at_a_time(folder_of: Callable[[str], Path]) -> None:
    many = Estimator(Settings(image_batch=8), {}).placements(identify_diffusers(folder_of("sdxl")))
    one = Estimator(Settings(image_batch=8), {}).placements(identify_diffusers(folder_of("sd3")))
    assert [len(many), len(one)] == [4, 1]
