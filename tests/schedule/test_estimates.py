"""What models need: from headers and shapes first, then from what was measured. And how the cores are shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import Health
from diptych.library.gguf import GgufHeader, read_gguf
from diptych.schedule.arbiter import Placement
from diptych.schedule.estimate import MARGIN, MIB, Estimator, loaded_label, pass_label, size_of_shape
from diptych.schedule.held import Held
from diptych.schedule.leases import Lease, bytes_by_device
from diptych.schedule.memory import MemoryPlan
from diptych.schedule.shapes import image_shape, shape_of_header, text_shape
from diptych.schedule.threads import Worker, share_threads, threads_to_load
from diptych.settings import Settings

ROOT = Path(__file__).parents[2]
PICTURES = Card(id="p", name="p", panel="image", family="sd", format="diffusers", path=str(ROOT / "starter"), size=64,
                bytes=50 * MIB, parameters=25_000_000, fingerprint="f", licence="mit")


def text_card(path: Path) -> Card:
    return Card(id="t", name="t", panel="text", family="llama", format="gguf", path=str(path),
                bytes=path.stat().st_size, context=8192, fingerprint="g", licence="mit")


def by_kind(placement: Placement, device: str = "cpu") -> dict[str, int]:
    return {lease.kind: lease.bytes for lease in placement.leases if lease.device == device}


def test_the_starters_header(starter_text: Path) -> None:
    """SmolLM2-135M: 30 layers with 3 heads of keys and values of length 64."""
    shape = text_shape(starter_text)
    assert shape is not None
    assert (shape.cached, shape.vocabulary) == (30 * 3 * 2 * 64, read_gguf(starter_text).number("llama.vocab_size"))
    assert shape.cache_bytes(1000, "f16") == 1000 * shape.cached * 2
    assert shape.cache_bytes(32, "q8_0") == shape.cached * 34  # 32 values and a scale of 2 bytes


def header(metadata: dict[str, Any]) -> GgufHeader:
    return GgufHeader(version=3, metadata={"general.architecture": "x", **metadata}, tensors=0, parameters=0,
                      header_sha256="")


def test_headers_of_other_kinds() -> None:
    """Key lengths that are not width / heads, heads that differ by layer, and headers that do not tell."""
    shape = shape_of_header(header({
        "x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": 4,
        "x.attention.head_count_kv": [1, 3], "x.attention.key_length": 20, "x.attention.value_length": 10}))
    assert shape is not None and shape.cached == 4 * 30
    whole = shape_of_header(header({"x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": 4}))
    assert whole is not None and whole.cached == 2 * 4 * 32
    for bad in ({}, {"x.block_count": 2}, {"x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": 0},
                {"x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": "4"}):
        assert shape_of_header(header(bad)) is None


def test_image_shapes(tmp_path: Path) -> None:
    starter = image_shape(ROOT / "starter")
    unet = json.loads((ROOT / "starter/unet/config.json").read_text())
    assert starter is not None and starter.channels == unet["block_out_channels"][0]
    for bad in ("", "[]", '{"block_out_channels": ["x"]}', '{"block_out_channels": 3}'):
        (tmp_path / "unet").mkdir(exist_ok=True)
        (tmp_path / "unet" / "config.json").write_text(bad)
        assert image_shape(tmp_path) is None


def test_text_leases_follow_context_and_cache(starter_text: Path) -> None:
    card = text_card(starter_text)
    small, = Estimator(Settings(text_slots=1, text_context=1024), {}).placements(card)
    large, = Estimator(Settings(text_slots=4, text_context=2048), {}).placements(card)
    quant, = Estimator(Settings(text_slots=4, text_context=2048, text_cache_type="q8_0"), {}).placements(card)
    assert by_kind(large)["cache"] == 8 * by_kind(small)["cache"]
    assert by_kind(quant)["cache"] == pytest.approx(by_kind(large)["cache"] * 8.5 / 16, rel=1e-3)
    assert by_kind(small)["weights"] == card.bytes


def test_a_projector_and_adapters_count(starter_text: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj.gguf").write_bytes(b"x" * 1000)
    card = text_card(starter_text)
    alone, = Estimator(Settings(), {}).placements(card)
    seeing, = Estimator(Settings(), {}).placements(card.model_copy(update={"projector": str(tmp_path / "mmproj.gguf")}))
    assert by_kind(seeing)["weights"] == by_kind(alone)["weights"] + 1000


def test_pictures_take_more_with_size_and_number() -> None:
    estimator = Estimator(Settings(image_batch=4), {})
    four, two, one = estimator.placements(PICTURES)
    assert [made.options["batch_pixels"] for made in (four, two, one)] == [4 * 4096, 2 * 4096, 4096]
    assert by_kind(four)["activations"] > by_kind(one)["activations"] > 0
    large = estimator.placements(PICTURES, (512, 512))
    assert by_kind(large[0])["activations"] > 8 * by_kind(four)["activations"]


def test_an_accelerator_holds_what_the_processor_then_need_not() -> None:
    placements = Estimator(Settings(image_batch=2, devices=("cuda:0", "cpu")), {}).placements(PICTURES)
    assert [(made.devices, made.rank) for made in placements] == [
        (("cuda:0",), 0), (("cuda:0",), 0), (("cpu",), 1), (("cpu",), 1)]
    assert by_kind(placements[0], "cuda:0")["weights"] == 4 * 25_000_000
    assert set(by_kind(placements[0], "cpu")) == {"runtime"}


def test_measured_figures_replace_estimates() -> None:
    loaded, one, decode = (("f", loaded_label("cpu")), ("f", pass_label("cpu", "64x64x1")),
                           ("f", pass_label("cpu", "64x64 decode")))
    measured = {loaded: 700.0 * MIB, one: 100.0 * MIB, decode: 5.0 * MIB}
    four, two, single = Estimator(Settings(image_batch=4), measured).placements(PICTURES)
    assert by_kind(single)["activations"] == int(100 * MIB * MARGIN)
    assert by_kind(single)["runtime"] + by_kind(single)["weights"] == 700 * MIB
    # A small pass is mostly workspaces: what was not measured is not a multiple of what was.
    more = by_kind(two)["activations"] - by_kind(single)["activations"]
    assert 0 < more < 5 * MIB
    assert by_kind(four)["activations"] - by_kind(two)["activations"] == 2 * more
    measured["f", pass_label("cpu", "64x64x4")] = 120.0 * MIB
    assert by_kind(Estimator(Settings(image_batch=4), measured).placements(PICTURES)[0])["activations"] == int(
        120 * MIB * MARGIN)


def test_a_measured_language_model_is_split_by_what_its_shapes_explain(starter_text: Path) -> None:
    settings, card = Settings(text_slots=1, text_context=1024), text_card(starter_text)
    label = loaded_label("cpu", Estimator(settings, {}).text_label(card))
    for known in (400 * MIB, 100 * MIB, 10):
        placement, = Estimator(settings, {("g", label): float(known)}).placements(card)
        assert bytes_by_device(placement.leases) == {"cpu": known}
    other, = Estimator(Settings(text_slots=2), {("g", label): 1.0}).placements(card)
    assert bytes_by_device(other.leases)["cpu"] > 100 * MIB, "measured with other settings"


def test_learning_corrects_the_leases() -> None:
    memory = MemoryPlan(Settings(image_batch=1), {"cpu": 4096 * MIB})
    made = memory.decide(PICTURES, ())
    assert made.placement is not None
    held = Held(PICTURES, made.placement, [], 1, lambda: None)
    health = Health(state="ready", engine="image", model="p", bytes_resident=600 * MIB, bytes_peak=610 * MIB)
    assert [label for _, label, _ in memory.learn(held, health)] == [loaded_label("cpu")]
    assert memory.learn(held, health) == []
    later = health.model_copy(update={"bytes_peak": 900 * MIB, "passes": {"64x64x1": 50 * MIB, "64x64 decode": 1}})
    assert [value for _, _, value in memory.learn(held, later)] == [50.0 * MIB, 1.0]
    assert bytes_by_device(held.leases) == {"cpu": 610 * MIB + int(50 * MIB * MARGIN)}


def test_refusals_name_the_numbers_and_the_field() -> None:
    memory = MemoryPlan(Settings(image_batch=1), {"cpu": 700 * MIB})
    memory.check(PICTURES)
    with pytest.raises(InvalidRequest) as refused:
        memory.check(PICTURES, (4096, 4096))
    assert (refused.value.param, refused.value.code) == ("size", "insufficient_memory")
    assert "4096x4096" in refused.value.message and "700 MiB" in refused.value.message
    with pytest.raises(InvalidRequest) as never:
        MemoryPlan(Settings(), {"cpu": 100 * MIB}).check(PICTURES, (4096, 4096))
    assert never.value.param == "model"


@pytest.mark.parametrize(("shape", "size"), [
    ("64x32", (64, 32)), ("", None), ("64", None), ("axb", None), ("-1x2", None)])
def test_sizes(shape: str, size: tuple[int, int] | None) -> None:
    assert size_of_shape(shape) == size


def test_cores_are_shared_between_those_who_work() -> None:
    text, picture, other = Worker(id="t", threads=1, fixed=True), Worker(id="p", threads=9), Worker(id="q", threads=9)
    assert share_threads(8, [picture]) == {"p": 8}
    assert share_threads(8, [text, picture]) == {"p": 7}
    assert share_threads(8, [text, picture, other]) == {"p": 4, "q": 3}
    assert share_threads(1, [text, picture, other]) == {"p": 1, "q": 1}
    assert share_threads(8, [text]) == share_threads(8, []) == {}


def test_threads_that_a_model_is_loaded_with(starter_text: Path) -> None:
    text = text_card(starter_text)
    assert [threads_to_load(text, cores) for cores in (1, 2, 8)] == [1, 1, 4]
    assert [threads_to_load(text, 4, wish) for wish in (1, 4, 16)] == [1, 4, 4]
    assert threads_to_load(PICTURES, 8) == 8


def test_leases_hold_no_negative_bytes() -> None:
    with pytest.raises(ValueError):
        Lease(device="cpu", kind="weights", bytes=-1)
