"""PNG text: what is written can be read again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_SEED
from diptych.core.infotext import build_infotext, build_text_chunks, parse_infotext, spec_from_text_chunks
from diptych.core.samplers import SAMPLERS, schedule_label, schedules_of
from diptych.core.specs import ImageSpec

CARD = Card(id="starter", panel="image", family="sd1", format="diffusers", path="x", bytes=1, size=64,
            fingerprint="abc123")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@st.composite
def specs(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> ImageSpec:
    sampler = draw(st.sampled_from(SAMPLERS))
    return ImageSpec(
        model=draw(st.sampled_from(["starter", "a, b", 'my "model": 1', "ünï"])),
        prompt=draw(text.filter(bool)), negative_prompt=draw(text), sampler=sampler,
        schedule=draw(st.sampled_from(schedules_of(sampler))),
        steps=draw(st.integers(1, 1000)), guidance=draw(st.floats(1, 50)), seed=draw(st.integers(0, MAX_SEED)),
        width=draw(st.sampled_from([None, 8, 512])), height=draw(st.sampled_from([None, 4096])),
        count=draw(st.integers(1, 64)), preview_every=draw(st.integers(0, 5)))


@given(specs(), st.integers(0, 63))
def test_json_round_trip(spec: ImageSpec, index: int) -> None:
    one = spec_from_text_chunks(build_text_chunks(spec, index, CARD))
    assert (one.seed, one.count) == ((spec.seed + index) % 2**63, 1)
    assert (one.width, one.height) == (spec.width or 64, spec.height or 64)
    changed = {"seed", "count", "width", "height", "preview_every"}
    assert one.model_dump(exclude=changed) == spec.model_dump(exclude=changed)
    assert spec_from_text_chunks(build_text_chunks(one, 0, CARD)) == one


# Lines that A1111's own text cannot tell from its syntax are left to the JSON.
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=100).filter(
    lambda text: "Negative prompt:" not in text and not text.endswith("\n") and ":" not in text.split("\n")[-1])


@given(specs(PLAIN))
def test_a1111_round_trip(spec: ImageSpec) -> None:
    found = parse_infotext(build_infotext(spec, 0, CARD))
    for name in ("prompt", "negative_prompt", "steps", "sampler", "guidance", "seed", "model"):
        assert found[name] == getattr(spec, name), name
    assert found["schedule"] == schedule_label(spec.schedule)
    assert (found["width"], found["height"]) == (spec.width or 64, spec.height or 64)
    assert found["model_hash"] == "abc123"
    again = spec_from_text_chunks({"parameters": build_infotext(spec, 0, CARD)})
    assert again == spec.model_copy(
        update={"count": 1, "preview_every": 0, "width": spec.width or 64, "height": spec.height or 64})


def test_text_of_the_web_ui() -> None:
    text = (
        "a (red:1.3) apple,\non a table\nNegative prompt: blurry, bad\nSteps: 28, Sampler: DPM++ 2M Karras, "
        'CFG scale: 7.5, Seed: 3141592653, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, '
        'Lora hashes: "a: 1f, b: 2e", Version: v1.10.1')
    found = parse_infotext(text)
    assert found["prompt"] == "a (red:1.3) apple,\non a table"
    assert found["negative_prompt"] == "blurry, bad"
    assert (found["width"], found["height"], found["guidance"]) == (512, 768, 7.5)
    assert found["Lora hashes"] == "a: 1f, b: 2e"
    spec = spec_from_text_chunks({"parameters": text})
    assert (spec.sampler, spec.schedule, spec.seed, spec.steps) == ("DPM++ 2M", "karras", 3141592653, 28)


def test_prompt_that_looks_like_the_text_itself() -> None:
    prompt = "x\nNegative prompt: y\nSteps: 5, Sampler: Heun, Seed: 9, Size: 8x8"
    spec = ImageSpec(prompt=prompt, negative_prompt="Steps: 1, a: 2, b: 3\x00", seed=1)
    one = spec_from_text_chunks(build_text_chunks(spec, 0, CARD))
    assert (one.prompt, one.negative_prompt, one.seed) == (prompt, spec.negative_prompt, 1)


@pytest.mark.parametrize("chunks", [
    {}, {"comment": "x"}, {"diptych": "not json"}, {"diptych": "[]"}, {"diptych": '{"spec": {"prompt": ""}}'},
    {"diptych": json.dumps({"spec": {"prompt": "a", "sampler": "none such"}})},
    {"parameters": "a\nSteps: 9999999, Sampler: Euler, Seed: 1"}, {"parameters": "Steps: 1, Sampler: x, Seed: 1"},
    {"parameters": "a\nSteps: 20, Sampler: Euler, Seed: 1, CFG scale: nan"},
])
def test_unusable_text_is_refused(chunks: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        spec_from_text_chunks(chunks)


@given(st.text(max_size=500))
def test_any_text_parses(text: str) -> None:
    assert isinstance(parse_infotext(text)["prompt"], str)
