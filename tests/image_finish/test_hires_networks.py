"""A second pass over a picture that a network of the library enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finish_networks import compact_weights, write_weights
from image_studio import Studio

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec


def test_hires_with_a_network(atelier: Studio, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "compact.safetensors", compact_weights())
    made = {}
    for name in ("compact", "lanczos"):
        spec = ImageSpec(prompt="red", width=64, height=64, steps=3, seed=1, hires={
            "scale": 1.5, "steps": 4, "strength": 0.25, "upscaler": name})
        files = {reference.key: str(path) for reference in spec.references()}
        assert list(files) == ([] if name == "lanczos" else ["upscaler:compact"])
        made[name] = atelier.pictures(atelier.submit(spec, files=files)[1])[0]
        assert made[name].shape == (96, 96, 3)
    assert not np.array_equal(made["compact"], made["lanczos"])
    with pytest.raises(InvalidRequest) as told:
        atelier.submit(ImageSpec(prompt="red", hires={"upscaler": "nobody"}))
    assert told.value.param == "hires.upscaler"
