"""Models on disk as cards."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from model_files import LLAMA, gguf, write_pipeline

from diptych.core.errors import NotFound
from diptych.library import Library
from diptych.library.starters import find_starter
from diptych.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data" / "models").mkdir(parents=True)
    return Settings(data_dir=tmp_path / "data", model_dirs=(tmp_path / "more",))


@pytest.fixture
def models(settings: Settings) -> Path:
    settings.model_dirs[0].mkdir()
    return settings.models_dir


def ids(library: Library) -> list[str]:
    """Without the one that ships."""
    return [card.id for card in library.cards() if card.id != "starter"]


def test_a_diffusers_folder(settings: Settings, models: Path) -> None:
    folder = write_pipeline(models / "my-sd")
    (folder / "README.md").write_text("---\nlicense: openrail\ntags:\n  - x\n---\n# A model\n")
    card = Library(settings).get("my-sd")
    assert (card.panel, card.family, card.format, card.license) == ("image", "sd1", "diffusers", "openrail")
    assert (card.size, card.multiple, card.parameters) == (128, 8, 300)
    assert card.bytes == sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    assert Path(card.path) == folder and len(card.fingerprint) == 10


def test_real_diffusers_and_the_card_agree(settings: Settings, models: Path) -> None:
    """Size, multiple and parameters as diffusers itself computes them, on a tiny pipeline saved by diffusers."""
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.set_num_threads(1)
    folder = write_pipeline(models / "saved")
    unet = UNet2DConditionModel(sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=8,
                                norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    vae = AutoencoderKL(block_out_channels=(8, 8, 8), norm_num_groups=4,
                        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    for name, model in (("unet", unet), ("vae", vae)):
        shutil.rmtree(folder / name)
        model.save_pretrained(folder / name)
    card = Library(settings).get("saved")
    assert card.multiple == 2 ** (len(vae.config.block_out_channels) - 1) == 4
    assert card.size == 8 * 4
    assert card.parameters == unet.num_parameters() + vae.num_parameters() + 100


def test_gguf_files(settings: Settings, models: Path, starter_text: Path) -> None:
    (models / "starter-text").symlink_to(starter_text.parent)
    (settings.model_dirs[0] / "deep" / "er").mkdir(parents=True)
    (settings.model_dirs[0] / "deep" / "er" / "Tiny.Q4.gguf").write_bytes(gguf(LLAMA))
    (models / "mmproj.gguf").write_bytes(gguf({"general.architecture": "clip"}))
    (models / ".hidden.gguf").write_bytes(b"x")
    library = Library(settings)
    assert ids(library) == ["Tiny.Q4", "starter-text"] and library.problems() == []
    card = library.get("starter-text")
    assert (card.panel, card.format, card.context, card.parameters) == ("text", "gguf", 8192, 134_515_008)
    assert (card.license, card.bytes) == ("apache-2.0", 98_362_432)
    assert library.get("Tiny.Q4").name == "Tiny"


def test_a_model_in_several_files(settings: Settings, models: Path) -> None:
    for number in (1, 2):
        (models / f"big-0000{number}-of-00002.gguf").write_bytes(gguf(LLAMA))
    library = Library(settings)
    card = library.get("big")
    assert card.parameters == 256 and card.path.endswith("-00001-of-00002.gguf")
    assert card.bytes == 2 * len(gguf(LLAMA))
    (models / "big-00002-of-00002.gguf").unlink()
    assert ids(library) == [] and "1 of its 2 files are missing" in library.problems()[0]


def test_broken_models_are_problems_and_never_raise(settings: Settings, models: Path) -> None:
    (models / "cut.gguf").write_bytes(gguf(LLAMA)[:-1])
    (models / "empty.gguf").write_bytes(b"")
    (models / "nameless.gguf").write_bytes(gguf({}))
    (models / "gone.gguf").symlink_to(models / "nowhere")
    write_pipeline(models / "video", pipeline="StableVideoDiffusionPipeline")
    (write_pipeline(models / "no-vae") / "vae" / "config.json").unlink()
    (write_pipeline(models / "odd") / "unet" / "config.json").write_text('{"sample_size": "big"}')
    (write_pipeline(models / "not-json") / "model_index.json").write_text("{")
    part = write_pipeline(models / "pickled") / "unet"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "diffusion_pytorch_model.bin")
    library = Library(settings)
    assert ids(library) == []
    found = {Path(line.split(": ")[0]).name: line for line in library.problems()}
    words = {"cut.gguf": "cut short", "empty.gguf": "cut short", "nameless.gguf": "architecture", "gone.gguf": "read",
             "video": "StableVideoDiffusionPipeline", "no-vae": "vae/config.json is missing", "odd": "'big'",
             "not-json": "not valid JSON", "pickled": "convert them to safetensors"}
    assert found.keys() == words.keys()
    for name, word in words.items():
        assert word in found[name]


def test_get_names_what_is_known(settings: Settings, models: Path) -> None:
    (models / "tiny.gguf").write_bytes(gguf(LLAMA))
    with pytest.raises(NotFound, match="tiny") as caught:
        Library(settings).get("nope" * 1000)
    assert caught.value.status == 404 and caught.value.param == "model" and len(caught.value.message) < 400


def test_changes_on_disk_are_seen(settings: Settings, models: Path) -> None:
    library = Library(settings)
    assert ids(library) == []
    path = models / "a.gguf"
    path.write_bytes(gguf(LLAMA))
    first = library.get("a")
    path.write_bytes(gguf(LLAMA | {"general.name": "Other"}))
    assert library.get("a").name == "Other" != first.name
    config = write_pipeline(models / "sd") / "unet" / "config.json"
    assert library.get("sd").size == 128
    config.write_text(json.dumps({"sample_size": 32}))
    assert library.get("sd").size == 256
    path.unlink()
    assert ids(library) == ["sd"]


def test_fingerprints_tell_fine_tunes_apart(settings: Settings, models: Path) -> None:
    """Same shapes, same sizes, other weights."""
    for name, fill in (("a", 0), ("b", 1)):
        (models / f"{name}.gguf").write_bytes(gguf(LLAMA, fill=fill))
        write_pipeline(models / f"sd-{name}", fill=fill)
    library = Library(settings)
    prints = [library.get(id).fingerprint for id in ("a", "b", "sd-a", "sd-b")]
    assert len(set(prints)) == 4
    assert prints == [Library(settings).get(id).fingerprint for id in ("a", "b", "sd-a", "sd-b")]


def test_the_same_name_twice(settings: Settings, models: Path) -> None:
    other = settings.model_dirs[0]
    (models / "a.gguf").write_bytes(gguf(LLAMA))
    (other / "a.gguf").write_bytes(gguf(LLAMA, fill=1))
    (other / "copy").mkdir()
    (other / "copy" / "a.gguf").write_bytes(gguf(LLAMA))
    library = Library(settings)
    plain, long = ids(library)
    assert plain == "a" and long == f"a-{library.get(long).fingerprint[:6]}"
    assert Path(library.get("a").path).parent == models
    assert ["the same model" in line for line in library.problems()] == [True]


def test_links_in_a_circle_end(settings: Settings, models: Path) -> None:
    (models / "a.gguf").write_bytes(gguf(LLAMA))
    (models / "loop").symlink_to(models)
    assert ids(Library(settings)) == ["a"]


def test_a_model_folder_that_is_not_there(settings: Settings) -> None:
    library = Library(settings)
    assert ids(library) == []
    assert [line for line in library.problems() if "does not exist" in line] == [
        f"{settings.model_dirs[0]}: this model folder does not exist"]
    shutil.rmtree(settings.data_dir)
    assert ids(library) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(settings: Settings, models: Path) -> None:
    (models / "a.gguf").write_bytes(gguf(LLAMA))
    (models / "a.gguf").chmod(0)
    assert "cannot be read" in Library(settings).problems()[0]


def test_the_starter_beside_the_data(settings: Settings, models: Path) -> None:
    if find_starter(settings) is None:
        folder = write_pipeline(models / "starter")
        assert find_starter(settings) == folder
    card = Library(settings).get("starter")
    assert (card.id, card.panel, card.family) == ("starter", "image", "sd1")


def test_hundreds_of_files_take_well_under_a_second(settings: Settings, models: Path) -> None:
    for number in range(300):
        folder = models / f"group-{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"model-{number}.gguf").write_bytes(gguf(LLAMA, fill=number % 256) + bytes([number // 256]))
    library = Library(settings)
    began = time.perf_counter()
    assert len(ids(library)) == 300
    first = time.perf_counter() - began
    began = time.perf_counter()
    assert len(ids(library)) == 300
    again = time.perf_counter() - began
    assert first < 2 and again < 0.5


def test_many_threads_ask_at_once(settings: Settings, models: Path) -> None:
    (models / "a.gguf").write_bytes(gguf(LLAMA))
    library, found = Library(settings), []
    threads = [threading.Thread(target=lambda: found.append(library.get("a").id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["a"] * 8
