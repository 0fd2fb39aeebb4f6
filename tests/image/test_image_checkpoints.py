"""Checkpoints in one file give the picture that diffusers' own loader gives; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from image_studio import Studio
from ldm_checkpoint import write_checkpoint, write_configs
from safetensors.torch import load_file, save_file

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image import sd1
from diptych.engines.image.clip_words import clip_tokenizer
from diptych.library import Library
from diptych.library.checkpoint import identify_checkpoint
from diptych.library.gguf import BadFile
from diptych.settings import Settings

CPU = torch.device("cpu")
SPEC = ImageSpec(prompt="a Red apple's photo, naïve 日本 100%", negative_prompt="blurry", width=64, height=48, steps=5,
                 sampler="DDIM", seed=7, guidance=4.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "first": write_checkpoint(folder / "first.safetensors"),
        "second": write_checkpoint(folder / "second.safetensors", True, {"modelspec.prediction_type": "v"}),
    }


@pytest.mark.parametrize(("name", "prediction"), [("first", "epsilon"), ("second", "v_prediction")])
def test_the_picture_is_diffusers_own(files: dict[str, Path], tmp_path: Path, name: str, prediction: str) -> None:
    configs = write_configs(tmp_path / "configs", name == "second", prediction)
    pipe = StableDiffusionPipeline.from_single_file(
        str(files[name]), config=str(configs), local_files_only=True, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        SPEC.prompt, negative_prompt=SPEC.negative_prompt, width=SPEC.width, height=SPEC.height,
        num_inference_steps=SPEC.steps, guidance_scale=SPEC.guidance,
        generator=torch.Generator().manual_seed(SPEC.seed), output_type="np").images[0]
    studio = Studio(files[name], tmp_path / "out")
    try:
        ours = studio.picture(SPEC)
    finally:
        studio.engine.close()
    apart = np.abs(ours.astype(int) - (theirs * 255).round().astype(int))
    assert apart.max() <= 2
    assert ours.std() > 5, "a picture of one colour proves nothing"


def test_the_tokenizer_is_clips() -> None:
    """Token numbers of CLIP's published tokenizer, and all of its 49,408 tokens."""
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello, World! 42").input_ids == tokenizer("hello , world ! 4 2").input_ids
    ids = tokenizer("naïve 日本 🍎", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids).replace(" ", "") == "naïve日本🍎"
    assert clip_tokenizer("!").pad_token_id == 0


def test_what_a_file_predicts_is_found_out(files: dict[str, Path], tmp_path: Path) -> None:
    """A UNet that gives its input back predicts the noise; one that gives the opposite, the velocity."""
    weights = load_file(files["second"])
    for sign in (1.0, -1.0):
        model = sd1.load_model(str(files["second"]), CPU, torch.float32)
        unet: Any = model.unet
        unet.forward = lambda noise, *_, sign=sign, **__: (sign * noise,)
        from diptych.engines.image.checkpoint import _prediction

        assert _prediction(unet) == ("epsilon" if sign > 0 else "v")
    plain = tmp_path / "plain.safetensors"
    save_file(weights, plain)
    assert sd1.load_model(str(plain), CPU, torch.float32).scheduler_config["prediction_type"] in (
        "epsilon", "v_prediction")


def test_cards(files: dict[str, Path], tmp_path: Path) -> None:
    first, second = (identify_checkpoint(files[name]) for name in ("first", "second"))
    assert first is not None and second is not None
    assert (first.format, first.family, first.size, first.multiple, first.id) == ("checkpoint", "sd1", 512, 2, "first")
    assert (second.size, first.fingerprint != second.fingerprint) == (768, True)
    named = write_checkpoint(tmp_path / "v2-512-base.safetensors", True, {"modelspec.title": "Two"})
    found = identify_checkpoint(named)
    assert found is not None and (found.size, found.name) == (512, "Two")
    told = write_checkpoint(tmp_path / "x.safetensors", metadata={"modelspec.resolution": "640x640"})
    assert (identify_checkpoint(told) or found).size == 640


def test_the_library_lists_them_and_says_what_it_cannot_use(files: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "first.safetensors").symlink_to(files["first"])
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, models / "adapter.safetensors")
    one = torch.zeros(1, 4, 3, 3)
    save_file({"model.diffusion_model.joint_blocks.0.x": one}, models / "three.safetensors")
    save_file({"model.diffusion_model.double_blocks.0.img_attn.norm": one}, models / "flux.safetensors")
    unet = {"model.diffusion_model.input_blocks.0.0.weight": one}
    save_file(unet, models / "pruned.safetensors")
    weights = load_file(files["first"])
    weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(64, 5, 3, 3)
    save_file(weights, models / "depth.safetensors")
    (models / "cut.safetensors").write_bytes(files["first"].read_bytes()[:5000])
    library = Library(Settings(data_dir=tmp_path))
    assert "first" in {card.id for card in library.cards()}
    problems = {Path(line.partition(": ")[0]).name: line for line in library.problems()}
    assert set(problems) == {"three.safetensors", "flux.safetensors", "pruned.safetensors", "depth.safetensors",
                             "cut.safetensors"}
    assert "Stable Diffusion 3" in problems["three.safetensors"] and "FLUX" in problems["flux.safetensors"]
    assert "depth map" in problems["depth.safetensors"] and "cut short" in problems["cut.safetensors"]


def test_a_file_that_lacks_weights_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(files["first"])
    for key in ("model.diffusion_model.middle_block.0.out_layers.3.weight", "first_stage_model.decoder.conv_out.bias",
                "cond_stage_model.transformer.text_model.final_layer_norm.bias"):
        broken = tmp_path / "broken.safetensors"
        save_file({name: value for name, value in weights.items() if name != key}, broken)
        with pytest.raises(InvalidRequest, match=r"broken\.safetensors.*could not be loaded"):
            sd1.load_model(str(broken), CPU, torch.float32)
    with pytest.raises(BadFile):
        (tmp_path / "x.safetensors").write_bytes(b"no")
        identify_checkpoint(tmp_path / "x.safetensors")
