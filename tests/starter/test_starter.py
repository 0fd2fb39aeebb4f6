"""The image model that ships: its size, its layout, and that it does what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "starter"
LIMIT = 48_000_000
BACKGROUNDS = {
    "white": (255, 255, 255), "black": (24, 24, 28), "gray": (138, 140, 146), "red": (214, 48, 49),
    "orange": (245, 140, 40), "yellow": (250, 215, 70), "green": (58, 165, 90), "blue": (52, 110, 220),
    "purple": (130, 75, 190), "pink": (246, 160, 196), "brown": (128, 84, 54), "turquoise": (60, 190, 190),
}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(STARTER, torch_dtype=torch.float32)
    loaded.scheduler = EulerDiscreteScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_safe() -> None:
    files = [file for file in STARTER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    assert {file.suffix for file in files} <= {".json", ".txt", ".md", ".png", ".safetensors"}
    index = json.loads((STARTER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"][1] == "UNet2DConditionModel" and index["vae"][1] == "AutoencoderKL"
    assert index["text_encoder"][1] == "CLIPTextModel" and index["tokenizer"][1] == "CLIPTokenizer"


def test_backgrounds_are_the_asked_ones(pipeline: StableDiffusionPipeline) -> None:
    """One picture of each of the twelve colours; the card's figure over 100 prompts is at least 90 %."""
    prompts = [f"a cat on a {name} background" for name in BACKGROUNDS]
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    pictures = pipeline(prompts, num_inference_steps=12, guidance_scale=5.0, generator=seeds).images
    right = 0
    for name, picture in zip(BACKGROUNDS, pictures, strict=True):
        mean = np.asarray(picture, np.float32)[:6].mean(axis=(0, 1))
        right += min(BACKGROUNDS, key=lambda other: float(np.square(mean - BACKGROUNDS[other]).sum())) == name
    assert right >= 11


def test_the_card_agrees_with_the_figures() -> None:
    figures = json.loads((STARTER / "figures.json").read_text())
    card = (STARTER / "README.md").read_text()
    assert f"{figures['subject_right']:.0%} of {figures['prompts']} prompts" in card
    assert f"{figures['background_right']:.0%}" in card
    assert f"{figures['psnr_trained_db']:.1f} dB" in card and f"{figures['psnr_held_out_db']:.1f} dB" in card
    assert f"{figures['seconds_20_steps']:.2f} s" in card


def test_held_out_subjects_are_not_in_any_training_list() -> None:
    import runpy

    lists = runpy.run_path(str(ROOT / "tools" / "starter" / "subjects.py"))
    held = set(lists["HELD_OUT"])
    assert len(held) == 40 and not held & {*lists["TRAINED"], *lists["RESERVE"]}
    assert lists["BACKGROUNDS"] == BACKGROUNDS


def test_words_for_fine_tuning_are_single_tokens(pipeline: StableDiffusionPipeline) -> None:
    for word in ("sks", "ohwx", "zwx", "qvx", "jkzz"):
        assert len(pipeline.tokenizer(word).input_ids) == 3
