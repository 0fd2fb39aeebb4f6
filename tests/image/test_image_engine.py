"""Loading models and refusing what cannot be carried out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from image_studio import Gate, card_of
from safetensors.torch import load_file, save_file

from diptych.core.chat import Message
from diptych.core.errors import Conflict, InvalidRequest, Unavailable
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ChatSpec, ImageSpec
from diptych.engines.base import Engine
from diptych.engines.image.engine import ImageEngine

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
Build = Callable[..., Any]
SPEC = ImageSpec(prompt="a red cat", seed=4, steps=3)


def load(folder: Path, **changes: Any) -> None:
    engine: Engine = ImageEngine()
    try:
        engine.load(LoadRequest(card=card_of(folder, **changes), threads=1))
    finally:
        engine.close()


def drop(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def pickled(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def other_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"][1] = "VQModel"
    (folder / "model_index.json").write_text(json.dumps(index))


def cut(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def not_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def wrong_shape(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(path.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 48'))


def missing_weight(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("decoder.conv_out.weight")
    save_file(weights, path, metadata={"format": "pt"})


def missing_text_weight(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights.pop(next(name for name in weights if name.endswith("final_layer_norm.weight")))
    save_file(weights, path, metadata={"format": "pt"})


def no_vocabulary(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()


@pytest.mark.parametrize(("damage", "words"), [
    (drop("vae"), "no vae"), (drop("tokenizer"), "no tokenizer"), (pickled, "safetensors"), (other_class, "VQModel"),
    (cut, "could not be loaded"), (not_json, "model_index.json"), (wrong_shape, "could not be loaded"),
    (no_vocabulary, "vocab.json"), (missing_weight, "decoder.conv_out"), (missing_text_weight, "final_layer_norm"),
    (drop("scheduler"), "no scheduler"),
])
def test_a_damaged_folder_is_refused(
    folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = shutil.copytree(folders["kl"], tmp_path / "damaged")
    damage(folder)
    with pytest.raises(InvalidRequest, match=words) as caught:
        load(folder)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("family", ["sdxl9", "batcher", "../sd1", "os.path", ""])
def test_an_unknown_family_is_refused(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(InvalidRequest, match="family"):
        engine = ImageEngine()
        card = card_of(folders["kl"]).model_copy(update={"family": family})
        engine.load(LoadRequest(card=card, threads=1))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(("fields", "param"), [
    ({"width": 20}, "width"), ({"height": 12}, "height"), ({"steps": 51, "sampler": "LCM"}, "steps"),
    ({"steps": 999, "sampler": "DPM++ 2M"}, "steps"),
])
def test_a_wrong_spec_is_refused(folders: dict[str, Path], studio: Build, fields: dict[str, Any], param: str) -> None:
    room = studio(folders["kl"])
    with pytest.raises(InvalidRequest) as caught:
        room.submit(ImageSpec(prompt="a", seed=1, **fields))
    assert caught.value.param == param


def test_a_wrong_request_is_refused(folders: dict[str, Path], studio: Build, tmp_path: Path) -> None:
    room = studio(folders["kl"])
    with pytest.raises(InvalidRequest, match="skip has 1"):
        room.submit(SPEC, skip=(1,))
    chat = ChatSpec(messages=(Message(role="user", content="hi"),))
    with pytest.raises(InvalidRequest, match="chat"):
        room.submit(chat)
    with pytest.raises(InvalidRequest, match="output_dir"):
        room.engine.submit(RunRequest(id="x", spec=SPEC), print)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="folder"):
        room.engine.submit(RunRequest(id="x", spec=SPEC, output_dir=str(tmp_path / "file" / "x")), print)
    with pytest.raises(Conflict):
        room.engine.load(LoadRequest(card=room.card, threads=1))
    with pytest.raises(Unavailable):
        ImageEngine().submit(RunRequest(id="x", spec=SPEC, output_dir=str(tmp_path)), print)


def test_the_cards_size_and_multiple_hold(folders: dict[str, Path], tmp_path: Path) -> None:
    engine = ImageEngine()
    engine.load(LoadRequest(card=card_of(folders["kl"], size=32, multiple=32), threads=1))
    try:
        with pytest.raises(InvalidRequest, match="multiple of 32"):
            engine.submit(RunRequest(
                id="x", spec=SPEC.model_copy(update={"width": 24}), output_dir=str(tmp_path)), print)
    finally:
        engine.close()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_files(
    folders: dict[str, Path], studio: Build, tmp_path: Path, variant: str | None
) -> None:
    """Weights stored as fp16 are computed with as float32, and make nearly the same picture."""
    pipe = StableDiffusionPipeline.from_pretrained(folders["kl"], torch_dtype=torch.float16, local_files_only=True)
    pipe.save_pretrained(tmp_path / "half", variant=variant)
    room = studio(tmp_path / "half")
    assert room.engine._model.dtype == torch.float32
    difference = room.picture(SPEC).astype(int) - studio(folders["kl"]).picture(SPEC).astype(int)
    assert 0 < np.abs(difference).max() <= 20


def test_guidance_one_takes_one_row(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    gate = Gate(room)
    runs = [room.submit(SPEC.model_copy(update={"guidance": guidance}))[1] for guidance in (1.0, 1.5)]
    gate.open()
    for recorder in runs:
        room.pictures(recorder)
    assert max(gate.rows) == 3


def test_the_precision_can_be_chosen(folders: dict[str, Path], studio: Build) -> None:
    whole, half = studio(folders["kl"]), studio(folders["kl"], dtype="bfloat16")
    assert half.engine._model.unet.dtype is torch.bfloat16
    apart = np.abs(whole.picture(SPEC).astype(int) - half.picture(SPEC).astype(int))
    assert 0 < apart.mean() < 8
    with pytest.raises(InvalidRequest, match="dtype is 'int8', not one of float32, float16, bfloat16"):
        studio(folders["kl"], dtype="int8")
