"""What the options for second passes, variations, refiners and adapters ask for."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.api.native.schema import JobRequest
from diptych.cli.errors import CliError
from diptych.cli.stage_options import stage_fields


def fields(**given: Any) -> dict[str, Any]:
    names = ("hires", "variation", "tiling", "refiner", "lora", "vae")
    return stage_fields(**{**dict.fromkeys(names), **given})


def test_options_are_what_a_job_takes() -> None:
    assert fields() == {}
    found = fields(hires='scale=1.5,steps=8,strength=0.5,prompt="a cat, red",upscaler=latent nearest',
                   variation="0.25,9", tiling="x", refiner="other,0.6", lora=["one", "two,-0.5"], vae="mine")
    assert found == {
        "hires": {"scale": 1.5, "steps": 8, "strength": 0.5, "prompt": "a cat, red", "upscaler": "latent nearest"},
        "variation_strength": 0.25, "variation_seed": 9, "tiling": "x", "refiner": {"model": "other", "switch_at": 0.6},
        "adapters": [{"id": "one", "weight": 1.0}, {"id": "two", "weight": -0.5}], "vae": "mine"}
    JobRequest.model_validate({"prompt": "a cat", **found})
    assert fields(variation="1", refiner="other") == {
        "variation_strength": 1.0, "refiner": {"model": "other", "switch_at": 0.8}}


@pytest.mark.parametrize(("given", "words"), [
    ({"hires": "scale"}, "FIELD=VALUE"), ({"hires": "size=2"}, "no field"), ({"hires": "steps=two"}, "whole number"),
    ({"hires": 'prompt="a'}, "no end"), ({"variation": "much"}, "number"), ({"refiner": ",0.5"}, "name is missing"),
    ({"lora": ["one,x"]}, "number"),
])
def test_what_cannot_be_read(given: dict[str, Any], words: str) -> None:
    with pytest.raises(CliError, match=words):
        fields(**given)
