"""An engine with a model as the library knows it, and pictures to compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from image_studio import Recorder, Studio
from PIL import Image

from diptych.core.cards import Card
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.engine import ImageEngine
from diptych.library.checkpoint import identify_checkpoint
from diptych.library.identify import identify_diffusers

TOLERANCE = 2


class FamilyStudio(Studio):
    """See `Studio`; the card is the library's."""

    def __init__(self, place: Path, out: Path, **options: Any) -> None:
        card = identify_diffusers(place) if place.is_dir() else identify_checkpoint(place)
        assert card is not None
        self.card: Card = card
        self.engine = ImageEngine()
        self.out = out
        self._count = 0
        self.engine.load(LoadRequest(card=card, threads=1, options=options))

    def submit_with(
        self, spec: ImageSpec, files: Mapping[str, str], models: Mapping[str, Card] | None = None,
    ) -> Recorder:
        """Submit a spec that needs pictures or other models."""
        self._count += 1
        recorder = Recorder()
        self.engine.submit(RunRequest(id=f"with-{self._count}", spec=spec, files=dict(files), models=dict(models or {}),
                                      output_dir=str(self.out / f"with-{self._count}")), recorder)
        return recorder


def assert_same(ours: np.ndarray, theirs: np.ndarray, tolerance: int = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 4, "the reference is flat: the comparison would show nothing"
    assert ((theirs == 0) | (theirs == 255)).mean() < 0.5, "the reference is saturated"
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= tolerance


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture of soft colours."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
