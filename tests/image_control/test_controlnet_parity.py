"""Controlled pictures are those of diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_studio import STEPS, ControlStudio, control
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
)
from diffusers.models.adapter import MultiAdapter
from family_studio import assert_same, picture
from tiny_controls import SIZE, drawing

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def reference(kind: Any, folder: Path, parts: dict[str, Any], **call: Any) -> np.ndarray:
    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(
        "a red cat", negative_prompt="blue", num_inference_steps=STEPS, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(5), **call).images[0])


@pytest.fixture(scope="module", autouse=True)
def sent(studio: ControlStudio) -> None:
    studio.send(1, drawing("disc"))
    studio.send(2, drawing("box"))
    studio.send(3, picture(8, 40, 30))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scaled": ({"weight": 0.4}, {"controlnet_conditioning_scale": 0.4}),
    "part-of-the-steps": ({"start": 0.25, "end": 0.75}, {"control_guidance_start": 0.25, "control_guidance_end": 0.75}),
    "guess-mode": ({"control_mode": "control"}, {"guess_mode": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_one_controlnet(studio: ControlStudio, case: str) -> None:
    fields, call = CASES[case]
    expected = reference(
        StableDiffusionControlNetPipeline, studio.parts / "base",
        {"controlnet": ControlNetModel.from_pretrained(studio.parts / "edges")}, image=drawing("disc"), **call)
    found = studio.controlled(control("edges", **fields))
    assert_same(found, expected)
    assert np.abs(found.astype(int) - studio.controlled()).max() > 20, "control has changed nothing"


@pytest.mark.parametrize("guess", [False, True])
def test_several_controlnets_with_weights_and_times(studio: ControlStudio, guess: bool) -> None:
    """One of them reads pictures in the order blue, green, red."""
    nets = [ControlNetModel.from_pretrained(studio.parts / name) for name in ("edges", "lines")]
    pictures = [drawing("disc"), picture(8, 40, 30).resize((SIZE, SIZE), 1)]
    studio.send(4, pictures[1])
    expected = reference(
        StableDiffusionControlNetPipeline, studio.parts / "base", {"controlnet": nets}, image=pictures,
        controlnet_conditioning_scale=[0.7, 0.5], control_guidance_start=[0.0, 0.25], control_guidance_end=[0.5, 1.0],
        guess_mode=guess)
    mode = "control" if guess else "balanced"
    found = studio.controlled(control("edges", weight=0.7, end=0.5, control_mode=mode),
                              control("lines", 4, weight=0.5, start=0.25, control_mode=mode))
    assert_same(found, expected)


def test_a_network_with_one_value_for_the_whole_picture(studio: ControlStudio) -> None:
    expected = reference(
        StableDiffusionControlNetPipeline, studio.parts / "base",
        {"controlnet": ControlNetModel.from_pretrained(studio.parts / "pooled")}, image=drawing("disc"))
    assert_same(studio.controlled(control("pooled")), expected)


def test_without_guidance(studio: ControlStudio) -> None:
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        studio.parts / "base", controlnet=ControlNetModel.from_pretrained(studio.parts / "edges"))
    pipe.set_progress_bar_config(disable=True)
    for guess in (False, True):
        expected = np.asarray(pipe("a red cat", image=drawing("disc"), num_inference_steps=STEPS, guidance_scale=1.0,
                                   guess_mode=guess, generator=torch.Generator().manual_seed(5)).images[0])
        mode = "control" if guess else "balanced"
        assert_same(studio.controlled(control("edges", control_mode=mode), guidance=1.0), expected)


@pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
def test_t2i_adapters(studio: ControlStudio, several: bool) -> None:
    first, second = (T2IAdapter.from_pretrained(studio.parts / name) for name in ("adapter", "grey"))
    if several:
        expected = reference(
            StableDiffusionAdapterPipeline, studio.parts / "base",
            {"adapter": MultiAdapter([first, T2IAdapter.from_pretrained(studio.parts / "adapter")])},
            image=[drawing("disc"), drawing("box")], adapter_conditioning_scale=[0.6, 0.3])
        found = studio.controlled(control("adapter", kind="t2i_adapter", weight=0.6),
                                  control("adapter", 2, kind="t2i_adapter", weight=0.3))
    else:
        expected = reference(StableDiffusionAdapterPipeline, studio.parts / "base", {"adapter": second},
                             image=drawing("box").convert("L"), adapter_conditioning_scale=0.8)
        found = studio.controlled(control("grey", 2, kind="t2i_adapter", weight=0.8))
    assert_same(found, expected)
    assert np.abs(found.astype(int) - studio.controlled()).max() > 20, "the adapter has changed nothing"


@pytest.mark.parametrize("name", ["prompt", "plus"])
def test_ip_adapters(studio: ControlStudio, name: str) -> None:
    from transformers import CLIPImageProcessorPil

    pipe = StableDiffusionPipeline.from_pretrained(studio.parts / "base", local_files_only=True)
    # The library's default view needs torchvision, which is not among what Diptych needs.
    pipe.register_modules(feature_extractor=CLIPImageProcessorPil(size=30, crop_size=30))
    pipe.load_ip_adapter(str(studio.parts), subfolder="", weight_name=f"{name}.safetensors",
                         image_encoder_folder="image_encoder")
    pipe.set_ip_adapter_scale(0.7)
    pipe.set_progress_bar_config(disable=True)
    expected = np.asarray(pipe(
        "a red cat", negative_prompt="blue", ip_adapter_image=picture(8, 40, 30), num_inference_steps=STEPS,
        guidance_scale=4.0, generator=torch.Generator().manual_seed(5)).images[0])
    found = studio.controlled(control(f"{name}.safetensors", 3, kind="ip_adapter", weight=0.7))
    assert_same(found, expected)
    assert np.abs(found.astype(int) - studio.controlled()).max() > 20, "the adapter has changed nothing"
