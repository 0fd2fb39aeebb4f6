"""Checks that need no model, and the limits they state held against the samplers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core.cards import Card
from diptych.core.chat import Message
from diptych.core.checks import check, step_limit
from diptych.core.errors import InvalidRequest
from diptych.core.samplers import SAMPLERS, schedules_of
from diptych.core.specs import ChatSpec, ImageSpec
from diptych.engines.image.samplers import SamplerFactory

CARD = Card(id="m", panel="image", family="sd1", format="diffusers", path="x", bytes=1, size=64, multiple=8)


@pytest.mark.parametrize(("fields", "param", "words"), [
    ({"width": 60}, "width", ["60", "multiple of 8", "64"]),
    ({"height": 4090}, "height", ["4090", "4088"]),
    ({"steps": 51, "sampler": "LCM"}, "steps", ["51", "50", "LCM"]),
    ({"steps": 1000, "sampler": "DDIM"}, "steps", ["1000", "999"]),
    ({"steps": 999, "sampler": "UniPC"}, "steps", ["999", "998"]),
])
def test_refused(fields: dict[str, Any], param: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(ImageSpec(prompt="a", **fields), CARD)
    assert caught.value.param == param
    assert all(word in caught.value.message for word in words), caught.value.message


def test_accepted() -> None:
    check(ImageSpec(prompt="a"), CARD)
    check(ImageSpec(prompt="a", width=4096, height=4096, steps=1000), CARD)
    check(ImageSpec(prompt="a", width=264), CARD.model_copy(update={"multiple": None, "size": None}))


def test_sizes_of_the_card() -> None:
    with pytest.raises(InvalidRequest, match="multiple of 64"):
        check(ImageSpec(prompt="a", width=96), CARD.model_copy(update={"multiple": 64}))
    with pytest.raises(InvalidRequest, match="text"):
        check(ImageSpec(prompt="a"), CARD.model_copy(update={"panel": "text"}))
    assert ChatSpec(messages=(Message(role="user", content="a"),)).kind == "chat"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limit_is_within_the_samplers_reach(sampler: str, spacing: str) -> None:
    """At its limit a sampler still runs to the end with finite numbers; 100 training levels keep it short."""
    levels = 100
    factory = SamplerFactory({
        "_class_name": "DDIMScheduler", "num_train_timesteps": levels, "beta_start": 0.001, "beta_end": 0.1,
        "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1, "timestep_spacing": spacing,
        "set_alpha_to_one": False})
    assert factory.train_timesteps == levels
    for schedule in schedules_of(sampler)[:1]:
        steps = step_limit(sampler, levels)
        spec = ImageSpec(prompt="a", sampler=sampler, schedule=schedule, steps=steps)
        factory.check(spec)
        lane = factory.build(spec, seed=1)
        latents = lane.start(lane.draw((1, 4, 2, 2), torch.device("cpu"), torch.float32))
        while not lane.done:
            latents, _ = lane.advance(0.9 * torch.tanh(lane.scale(latents)), latents)
        assert lane.step == steps
        assert bool(torch.isfinite(latents).all())
        if steps < 1000:
            with pytest.raises(InvalidRequest, match=str(steps)):
                factory.check(spec.model_copy(update={"steps": steps + 1}))


def test_unknown_scheduler_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="NoSuchScheduler"):
        SamplerFactory({"_class_name": "NoSuchScheduler"})
