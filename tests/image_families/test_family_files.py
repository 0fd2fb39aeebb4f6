"""Checkpoints of Stable Diffusion XL, its refiner and inpainting in one file: the pictures diffusers makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ldm_layout
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from family_studio import FamilyStudio, assert_same
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diptych.core.specs import ImageSpec
from diptych.engines.image import sdxl
from diptych.engines.image.clip_words import clip_tokenizer
from diptych.library.checkpoint import identify_checkpoint
from diptych.library.gguf import BadFile

SPEC = ImageSpec(prompt="a Red apple's photo, naïve 日本 100%", negative_prompt="blurry", width=64, height=48, steps=4,
                 seed=7, guidance=4.0)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:diffusers")


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("files")

    def file(kind: str, inputs: int = 4, half: bool = False) -> Path:
        path = root / f"{kind}-{inputs}-{half}.safetensors"
        if not path.exists():
            ldm_layout.write(path, ldm_layout.small(kind, inputs), half=half)
        return path

    return file


def _words(width: int, projected: bool) -> Any:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(CLIPTextConfig(
        vocab_size=49408, hidden_size=width, projection_dim=width, intermediate_size=4 * width, num_hidden_layers=3,
        num_attention_heads=width // 64, hidden_act="gelu" if projected else "quick_gelu"))


def write_configs(folder: Path, refiner: bool) -> Path:
    """What diffusers would fetch from a hub to read such a file."""
    channels = (64, 128, 128) if refiner else (64, 128)
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D") if refiner else (
        "DownBlock2D", "CrossAttnDownBlock2D")
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=channels, layers_per_block=1, down_block_types=down, up_block_types=up,
        cross_attention_dim=64 if refiner else 192, use_linear_projection=True, transformer_layers_per_block=(
            1 if refiner else (1, 2)), attention_head_dim=(1, 2, 2) if refiner else (1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=64 + 5 * 32 if refiner else 128 + 6 * 32)
    kind = StableDiffusionXLImg2ImgPipeline if refiner else StableDiffusionXLPipeline
    options: dict[str, Any] = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    kind(unet=unet, text_encoder=None if refiner else _words(64, False),
         text_encoder_2=_words(64 if refiner else 128, True),
         tokenizer=None if refiner else clip_tokenizer(), tokenizer_2=clip_tokenizer("!"),
         vae=AutoencoderKL(block_out_channels=(32, 64), latent_channels=4, scaling_factor=0.13025,
                           down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2),
         scheduler=EulerDiscreteScheduler(
             beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
             timestep_spacing="leading"), add_watermarker=False, **options if refiner else {}).save_pretrained(folder)
    return folder


def test_the_picture_is_diffusers_own(file_of: Callable[..., Path], tmp_path: Path) -> None:
    pipe = StableDiffusionXLPipeline.from_single_file(
        str(file_of("sdxl")), config=str(write_configs(tmp_path / "configs", False)), local_files_only=True,
        torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    studio = FamilyStudio(file_of("sdxl"), tmp_path / "out")
    try:
        for negative in ("blurry", ""):
            spec = SPEC.model_copy(update={"negative_prompt": negative})
            expected = np.asarray(pipe(
                spec.prompt, negative_prompt=negative or None, width=64, height=48, num_inference_steps=4,
                guidance_scale=4.0, generator=torch.Generator().manual_seed(7)).images[0])
            assert_same(studio.picture(spec), expected)
    finally:
        studio.engine.close()


def test_the_refiner_has_diffusers_weights(file_of: Callable[..., Path], tmp_path: Path) -> None:
    pipe = StableDiffusionXLImg2ImgPipeline.from_single_file(
        str(file_of("sdxl-refiner")), config=str(write_configs(tmp_path / "configs", True)), local_files_only=True,
        torch_dtype=torch.float32)
    ours = sdxl.load_model(str(file_of("sdxl-refiner")), torch.device("cpu"), torch.float32)
    assert ours.refiner and len(ours._encoder.parts) == 1
    for part, theirs in ((ours.unet, pipe.unet), (ours.vae, pipe.vae), (ours._encoder.parts[0].model,
                                                                        pipe.text_encoder_2)):
        found, expected = part.state_dict(), theirs.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_cards(file_of: Callable[..., Path], tmp_path: Path) -> None:
    found = {kind: identify_checkpoint(file_of(kind)) for kind in ("sd1", "sd2", "sdxl", "sdxl-refiner")}
    for kind, card in found.items():
        assert card is not None and card.architecture == kind and not card.inpaint
        assert (card.family, card.size) == (("sd1", 512), ("sd1", 768), ("sdxl", 1024), ("sdxl", 1024))[
            list(found).index(kind)]
    for kind in ("sd1", "sd2", "sdxl"):
        card = identify_checkpoint(file_of(kind, 9))
        assert card is not None and card.inpaint
    for inputs, word in ((5, "depth map"), (8, "instructions"), (7, "enlarges")):
        with pytest.raises(BadFile, match=word):
            identify_checkpoint(file_of("sd2", inputs))
    edm = load_file(file_of("sdxl")) | {"edm_mean": torch.zeros(4)}
    save_file(edm, tmp_path / "edm.safetensors")
    with pytest.raises(BadFile, match="Playground"):
        identify_checkpoint(tmp_path / "edm.safetensors")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_files_for_inpainting(file_of: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    studio = FamilyStudio(file_of(kind, 9, True), tmp_path)
    try:
        assert studio.engine._model is not None and studio.engine._model.extra_channels == 5
        assert studio.picture(SPEC.model_copy(update={"steps": 2})).std() > 4
    finally:
        studio.engine.close()


def test_what_a_file_predicts(file_of: Callable[..., Path], tmp_path: Path) -> None:
    """Tensors with these names are how such files tell it."""
    plain = sdxl.load_model(str(file_of("sdxl")), torch.device("cpu"), torch.float32)
    assert plain.scheduler_config["prediction_type"] == "epsilon"
    weights = load_file(file_of("sdxl"))
    save_file(weights | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "v.safetensors")
    told = sdxl.load_model(str(tmp_path / "v.safetensors"), torch.device("cpu"), torch.float32).scheduler_config
    assert told["prediction_type"] == "v_prediction" and told["rescale_betas_zero_snr"]


@pytest.mark.parametrize(("kind", "unet", "words"), [
    ("sd1", 859_520_964, 123_060_480), ("sd2", 865_910_724, 354_032_641),
    ("sdxl", 2_567_463_684, 123_060_480 + 694_659_841), ("sdxl-refiner", 2_259_526_660, 694_659_841)])
def test_the_layout_has_the_published_numbers_of_weights(kind: str, unet: int, words: int) -> None:
    """Of the real models; of OpenCLIP with the scale that only its training used."""
    counts = {"model": 0, "first_stage_model": 0, "text": 0}
    for tensor in ldm_layout.tensors(ldm_layout.layout(kind)):
        part = tensor.name.partition(".")[0]
        counts[part if part in counts else "text"] += math.prod(tensor.shape)
    assert counts == {"model": unet, "first_stage_model": 83_653_863, "text": words}
