"""Stable Diffusion XL gives the pictures of diffusers' own pipelines, for the same folder, prompt, seed and sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from family_studio import FamilyStudio, assert_same, picture
from image_studio import Gate

from diptych.core.cards import Card
from diptych.core.checks import check
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import Reference
from diptych.core.size_hints import SizeHints
from diptych.core.specs import ImageSpec
from diptych.core.stages import Refiner

Studios = Callable[[str], FamilyStudio]
Folders = Callable[[str], Path]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:diffusers")


@cache
def pipe_of(folder: Path) -> Any:
    kind = StableDiffusionXLPipeline if folder.name == "sdxl" else StableDiffusionXLImg2ImgPipeline
    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(folder: Path, spec: ImageSpec, **options: Any) -> np.ndarray:
    """An empty negative prompt is none, which is what the pipeline makes zeros of."""
    return np.asarray(pipe_of(folder)(
        spec.prompt, negative_prompt=spec.negative_prompt or None, width=spec.width, height=spec.height,
        num_inference_steps=spec.steps, guidance_scale=spec.guidance,
        generator=torch.Generator().manual_seed(spec.seed), **options).images[0])


def spec_of(**fields: Any) -> ImageSpec:
    return ImageSpec(**{"prompt": "a red cat", "negative_prompt": "blue", "seed": 7, "steps": 4, "guidance": 4.0,
                        "width": 40, "height": 24, **fields})


@pytest.mark.parametrize("fields", [
    {}, {"negative_prompt": ""}, {"guidance": 1.0}, {"guidance_rescale": 0.7, "guidance": 9.0}, {"steps": 1},
], ids=["plain", "zeros", "unguided", "rescaled", "one step"])
def test_the_picture_is_diffusers_own(folder_of: Folders, studio_of: Studios, fields: dict[str, Any]) -> None:
    spec = spec_of(**fields)
    assert_same(studio_of("sdxl").picture(spec),
                theirs(folder_of("sdxl"), spec, guidance_rescale=spec.guidance_rescale))


def test_sizes_that_it_is_told(folder_of: Folders, studio_of: Studios) -> None:
    spec = spec_of(size_hints=SizeHints(original_width=100, original_height=200, crop_left=8, crop_top=4,
                                        target_width=64, target_height=48))
    ours = studio_of("sdxl").picture(spec)
    assert_same(ours, theirs(folder_of("sdxl"), spec, original_size=(200, 100), crops_coords_top_left=(4, 8),
                             target_size=(48, 64)))
    assert (ours != studio_of("sdxl").picture(spec_of())).any(), "the sizes do nothing"


def test_clip_skip_counts_from_the_layer_that_it_was_trained_with(folder_of: Folders, studio_of: Studios) -> None:
    spec = spec_of(clip_skip=2, negative_prompt="")
    assert_same(studio_of("sdxl").picture(spec), theirs(folder_of("sdxl"), spec, clip_skip=1))
    with pytest.raises(InvalidRequest, match=r"clip_skip is 4.*3 layers"):
        studio_of("sdxl").submit(spec_of(clip_skip=4))


def test_long_and_weighted_prompts(folder_of: Folders, studio_of: Studios) -> None:
    """Chunks are joined along the tokens, with the pooled text of the first; weights hold the mean of each encoder."""
    words = ["red", "cat", "blue"] * 12
    pipe = pipe_of(folder_of("sdxl"))
    size = pipe.tokenizer.model_max_length - 2
    ids = pipe.tokenizer(" ".join(words), add_special_tokens=False).input_ids
    texts = [pipe.tokenizer.decode(ids[start:start + size]) for start in range(0, len(ids), size)]
    assert len(texts) > 1
    encoded = [pipe.encode_prompt(text, device="cpu", negative_prompt="blue" if number == 0 else "")
               for number, text in enumerate(texts)]
    expected = np.asarray(pipe(
        prompt_embeds=torch.cat([one[0] for one in encoded], dim=1), pooled_prompt_embeds=encoded[0][2],
        negative_prompt_embeds=torch.cat([one[1] for one in encoded], dim=1),
        negative_pooled_prompt_embeds=encoded[0][3], width=40, height=24, num_inference_steps=4, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7)).images[0])
    assert_same(studio_of("sdxl").picture(spec_of(prompt=" ".join(words))), expected)
    weighted = studio_of("sdxl").picture(spec_of(prompt="a (red:1.6) cat"))
    assert (weighted != studio_of("sdxl").picture(spec_of())).any()


def test_requests_share_passes(studio_of: Studios) -> None:
    """Different prompts, sizes they are told and samplers go together, and none changes another's picture."""
    studio = studio_of("sdxl")
    specs = [spec_of(), spec_of(prompt="blue", negative_prompt="", seed=1, sampler="DPM++ 2M", steps=5),
             spec_of(size_hints=SizeHints(original_width=64, original_height=64), guidance=1.0, seed=2)]
    alone = [studio.picture(spec) for spec in specs]
    gate = Gate(studio)
    runs = [studio.submit(spec)[1] for spec in specs]
    gate.open()
    for run, expected in zip(runs, alone, strict=True):
        assert np.abs(studio.pictures(run)[0].astype(int) - expected.astype(int)).max() <= 2
    assert max(gate.rows) >= 5


def test_pictures_from_pictures_and_the_refiner(folder_of: Folders, studio_of: Studios, tmp_path: Path) -> None:
    """The refiner has one encoder, and is told scores of beauty."""
    start = picture(1, 40, 24)
    start.save(tmp_path / "start.png")
    id = "sha256:" + "0" * 64
    files = {Reference("input", id, "init_image").key: str(tmp_path / "start.png")}
    for name, options in (("sdxl", {}), ("refiner", {"aesthetic_score": 7.0, "negative_aesthetic_score": 2.0})):
        hints = SizeHints(**options) if options else None
        spec = spec_of(init_image=id, strength=0.6, steps=5, size_hints=hints, negative_prompt="blue")
        if name == "sdxl":
            pipe = StableDiffusionXLImg2ImgPipeline.from_pipe(pipe_of(folder_of(name)))
            pipe.set_progress_bar_config(disable=True)
        else:
            pipe = pipe_of(folder_of(name))
        expected = np.asarray(pipe(
            spec.prompt, negative_prompt=spec.negative_prompt, image=start, strength=0.6, num_inference_steps=5,
            guidance_scale=4.0, generator=torch.Generator().manual_seed(7), **options).images[0])
        studio = studio_of(name)
        assert studio.card.architecture == ("sdxl" if name == "sdxl" else "sdxl-refiner")
        assert_same(studio.pictures(studio.submit_with(spec, files))[0], expected)


def test_samplers_are_those_of_all_models(folder_of: Folders, studio_of: Studios) -> None:
    pipe, folder = pipe_of(folder_of("sdxl")), folder_of("sdxl")
    own = pipe.scheduler
    try:
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(own.config, use_karras_sigmas=True)
        spec = spec_of(sampler="DPM++ 2M", schedule="karras")
        assert_same(studio_of("sdxl").picture(spec), theirs(folder, spec))
    finally:
        pipe.scheduler = own


def test_half_precision_decodes_in_float32(folder_of: Folders, tmp_path: Path) -> None:
    """The VAE's inner values go beyond those of float16."""
    studio = FamilyStudio(folder_of("sdxl"), tmp_path, dtype="float16")
    model: Any = studio.engine._model
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    made = studio.picture(spec_of())
    studio.engine.close()
    assert made.std() > 4


def test_models_of_other_families_know_no_sizes() -> None:
    card = Card(id="x", panel="image", family="sd1", format="diffusers", path="x", bytes=1)
    with pytest.raises(InvalidRequest, match="size_hints") as caught:
        check(ImageSpec(prompt="x", size_hints=SizeHints(crop_top=1)), card)
    assert caught.value.param == "size_hints"


def test_the_refiner_takes_over(folder_of: Folders, studio_of: Studios) -> None:
    """As diffusers hands latents from one pipeline to the other."""
    base, refiner = pipe_of(folder_of("sdxl")), pipe_of(folder_of("refiner"))
    generator = torch.Generator().manual_seed(7)
    asked: dict[str, Any] = {"prompt": "a red cat", "negative_prompt": "blue", "num_inference_steps": 4,
                             "guidance_scale": 4.0, "generator": generator}
    latents = base(**asked, width=40, height=24, denoising_end=0.5, output_type="latent").images
    end = refiner(**asked, image=latents, denoising_start=0.5, output_type="latent").images
    with torch.no_grad():  # the real ones share their VAE
        decoded = base.vae.decode(end / base.vae.config.scaling_factor).sample
    expected = np.asarray(base.image_processor.postprocess(decoded)[0])
    studio = studio_of("sdxl")
    card = studio_of("refiner").card
    spec = spec_of(refiner=Refiner(model=card.id, switch_at=0.5))
    made = studio.pictures(studio.submit_with(spec, {}, {card.id: card}))[0]
    assert_same(made, expected)
    assert (made != studio.picture(spec_of())).any()
