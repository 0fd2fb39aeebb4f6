"""Tiny Stable Diffusion folders with random weights, and a way to run requests on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from image_studio import Studio
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WINDOW = 20
"""Tokens of the tiny text encoder."""
STARTER = Path(__file__).parents[2] / "starter"


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of single letters and a few merges."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    merges = ["r e", "re d</w>", "c a", "ca t</w>", "b l", "bl u", "blu e</w>"]
    words = ["".join(merge.split()) for merge in merges]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WINDOW)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, *, channels: int, tiny_vae: bool, scheduler: Any, time_cond: int | None = None) -> Path:
    """A whole folder, saved by diffusers itself."""
    torch.manual_seed(channels)
    tokenizer = write_tokenizer(folder / "words")
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=WINDOW, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=8, in_channels=channels, out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8, time_cond_proj_dim=time_cond)
    vae: Any
    if tiny_vae:
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), latent_channels=channels,
            num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))
    else:
        vae = AutoencoderKL(
            block_out_channels=(8, 16), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`kl`: AutoencoderKL, 4 latent channels; `tiny`: AutoencoderTiny, 8 channels, v-prediction, trailing timesteps."""
    root = tmp_path_factory.mktemp("models")
    ddim = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1)
    euler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                                   prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1)
    found = {
        "kl": write_model(root / "kl", channels=4, tiny_vae=False, scheduler=ddim),
        "tiny": write_model(root / "tiny", channels=8, tiny_vae=True, scheduler=euler),
        "lcm": write_model(root / "lcm", channels=6, tiny_vae=False, scheduler=ddim, time_cond=16),
    }
    if (STARTER / "model_index.json").exists():
        found["starter"] = STARTER
    return found


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Builds studios; they are closed when the test ends."""
    built: list[Studio] = []

    def build(folder: Path, **options: Any) -> Studio:
        built.append(Studio(folder, tmp_path / f"out{len(built)}", **options))
        return built[-1]

    yield build
    for one in built:
        one.engine.close()
