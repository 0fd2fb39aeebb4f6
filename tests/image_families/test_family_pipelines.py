"""Stable Diffusion 3, FLUX and PixArt by diffusers' whole pipelines: the same pictures, and the contract of engines."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from family_studio import FamilyStudio, assert_same, picture
from PIL import Image

from diptych.core.canvas import Mask, Rectangle
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.events import ArtifactReady, Failed, Finished, Metrics, Preview, Progress
from diptych.core.finish import Detail, Upscale
from diptych.core.image_options import Reference
from diptych.core.pipelines import PIPELINES
from diptych.core.protocol import RunRequest
from diptych.core.specs import ImageSpec
from diptych.library.gguf import BadFile
from diptych.library.identify import identify_diffusers

Studios = Callable[[str], FamilyStudio]
Folders = Callable[[str], Path]
ID = "sha256:" + "2" * 64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:diffusers")


@cache
def pipe_of(folder: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, spec: ImageSpec, **options: Any) -> np.ndarray:
    if "negative_prompt" in inspect.signature(pipe.__call__).parameters and spec.negative_prompt:
        options["negative_prompt"] = spec.negative_prompt
    return np.asarray(pipe(
        spec.prompt, width=spec.width, height=spec.height, num_inference_steps=spec.steps,
        guidance_scale=spec.guidance, generator=torch.Generator().manual_seed(spec.seed), **options).images[0])


def spec_of(**fields: Any) -> ImageSpec:
    return ImageSpec(**{"prompt": "a red cat", "seed": 7, "steps": 4, "guidance": 4.0, "width": 48, "height": 32,
                        **fields})


@pytest.mark.parametrize(("name", "fields", "options"), [
    ("sd3", {"negative_prompt": "blue"}, {}), ("sd3", {"sampler": "flow-match Euler", "guidance": 1.0}, {}),
    ("sd3", {"clip_skip": 2, "negative_prompt": "blue"}, {"clip_skip": 1}), ("flux", {}, {}),
    ("pixart", {"negative_prompt": "blue"}, {"use_resolution_binning": False}),
], ids=["sd3", "sd3 unguided", "sd3 clip skip", "flux", "pixart"])
def test_the_picture_is_diffusers_own(
    folder_of: Folders, studio_of: Studios, name: str, fields: dict[str, Any], options: dict[str, Any],
) -> None:
    spec = spec_of(**fields)
    assert_same(studio_of(name).picture(spec), theirs(pipe_of(folder_of(name)), spec, **options))


@pytest.mark.parametrize(("sampler", "schedule", "kind", "options"), [
    ("DPM++ 2M", "karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("Euler a", "normal", "EulerAncestralDiscreteScheduler", {}), ("Heun", "normal", "HeunDiscreteScheduler", {}),
    ("DDIM", "normal", "DDIMScheduler", {"clip_sample": False}),
])
def test_samplers_of_noise_models(
    folder_of: Folders, studio_of: Studios, sampler: str, schedule: str, kind: str, options: dict[str, Any],
) -> None:
    pipe = pipe_of(folder_of("pixart"))
    own = pipe.scheduler
    spec = spec_of(sampler=sampler, schedule=schedule, negative_prompt="blue")
    try:
        pipe.scheduler = getattr(diffusers, kind).from_config(own.config, **options)
        expected = theirs(pipe, spec, use_resolution_binning=False)
    finally:
        pipe.scheduler = own
    assert_same(studio_of("pixart").picture(spec), expected)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_pictures_from_pictures(
    folder_of: Folders, studio_of: Studios, tmp_path: Path, name: str, masked: bool,
) -> None:
    start = picture(3, 48, 32)
    start.save(tmp_path / "start.png")
    mask = Mask(shapes=(Rectangle(kind="rectangle", x=.25, y=.25, width=.5, height=.5),), blur=0) if masked else None
    spec = spec_of(init_image=ID, strength=0.6, steps=5, mask=mask)
    kind = diffusers.AutoPipelineForInpainting if masked else diffusers.AutoPipelineForImage2Image
    pipe = kind.from_pipe(pipe_of(folder_of(name)))
    pipe.set_progress_bar_config(disable=True)
    inside = np.pad(np.full((16, 24), True), ((8, 8), (12, 12)))
    options = {"mask_image": Image.fromarray((inside * 255).astype(np.uint8))} if masked else {}
    expected = theirs(pipe, spec, image=start, strength=0.6, **options)
    studio = studio_of(name)
    run = studio.submit_with(spec, {Reference("input", ID, "init_image").key: str(tmp_path / "start.png")})
    ours = studio.pictures(run)[0]
    if masked:
        assert (ours[~inside] == np.asarray(start)[~inside]).all()
        ours, expected = ours[inside], expected[inside]
    assert_same(ours, expected)
    assert run.of(Progress)[-1].step == run.of(Progress)[-1].steps == 3


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_progress_previews_and_count(studio_of: Studios, name: str) -> None:
    studio = studio_of(name)
    _, run = studio.submit(spec_of(count=2, preview_every=2))
    first, second = studio.pictures(run)
    assert (first != second).any()
    assert [event.step for event in run.of(Progress)] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [(event.index, event.step) for event in run.of(Preview)] == [(0, 2), (1, 2)]
    assert [event.seed for event in run.of(ArtifactReady)] == [7, 8]
    assert run.of(Metrics)[0].values["pictures"] == 2
    _, again = studio.submit(spec_of(count=2), skip=(0,))
    assert [event.index for event in (studio.pictures(again), again.of(ArtifactReady))[1]] == [1]
    assert studio.engine.passes()["48x32x1"] > 0


def test_a_cancel_ends_it_between_steps_and_the_next_goes_on(studio_of: Studios) -> None:
    studio = studio_of("sd3")
    id, run = studio.submit(spec_of(steps=1000))
    other = studio.submit(spec_of(), timeout_seconds=60)[1]
    run.until(lambda event: isinstance(event, Progress) and event.step > 2)
    began = time.monotonic()
    assert studio.engine.cancel(id)
    last = run.last()
    assert isinstance(last, Finished) and last.reason == "cancelled" and time.monotonic() - began < 20
    assert not run.of(ArtifactReady) and len(studio.pictures(other)) == 1
    late = studio.submit(spec_of(steps=1000), timeout_seconds=0.01)[1].last()
    assert isinstance(late, Failed) and (late.status, late.code) == (504, "timeout")
    assert not studio.engine.cancel("unknown")


@pytest.mark.parametrize(("name", "fields", "param"), [
    ("flux", {"negative_prompt": "blue"}, "negative_prompt"), ("flux", {"sampler": "DPM++ 2M"}, "sampler"),
    ("sd3", {"sampler": "Euler a"}, "sampler"), ("sd3", {"schedule": "karras"}, "schedule"),
    ("sd3", {"s_churn": 1.0}, "s_churn"), ("sd3", {"guidance_rescale": 0.5}, "guidance_rescale"),
    ("sd3", {"tiling": "x"}, "tiling"), ("flux", {"clip_skip": 2}, "clip_skip"),
    ("pixart", {"clip_skip": 2}, "clip_skip"), ("pixart", {"init_image": ID}, "init_image"),
    ("pixart", {"sampler": "Restart"}, "sampler"), ("pixart", {"sampler": "DDIM", "schedule": "uniform"}, "schedule"),
    ("sd3", {"prompt": "a (red:1.4) cat"}, "prompt"), ("sd3", {"prompt": "a [red:blue:0.5] cat"}, "prompt"),
    ("sd3", {"prompt": "a red AND a cat"}, "prompt"), ("sd3", {"negative_prompt": "[x]"}, "negative_prompt"),
    ("sd3", {"width": 44}, "width"),
], ids=lambda value: value if isinstance(value, str) else next(iter(value)))
def test_what_a_family_does_not_know_is_refused(
    studio_of: Studios, name: str, fields: dict[str, Any], param: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        studio_of(name).submit(spec_of(**fields))
    assert caught.value.param == param and caught.value.status == 400


def test_brackets_that_are_words(folder_of: Folders, studio_of: Studios) -> None:
    expected = theirs(pipe_of(folder_of("sd3")), spec_of(prompt="a (red) cat"))
    for fields in ({"prompt": r"a \(red\) cat"}, {"prompt": "a (red) cat", "prompt_syntax": "plain"}):
        assert_same(studio_of("sd3").picture(spec_of(**fields)), expected)


def test_pictures_are_finished(studio_of: Studios) -> None:
    """As those of other models: upscaled, for one; what would paint parts again is refused."""
    studio = studio_of("sd3")
    plain = studio.picture(spec_of())
    found = studio.picture(spec_of(finish=(Upscale(kind="upscale", model="nearest", factor=2.0),)))
    assert found.shape == (64, 96, 3) and (found[::2, ::2] == plain).all()
    with pytest.raises(InvalidRequest, match="detail"):
        studio.submit(spec_of(finish=(Detail(kind="detail", detect="face"),)))


def test_the_end_and_what_is_no_picture(folder_of: Folders, tmp_path: Path) -> None:
    studio = FamilyStudio(folder_of("pixart"), tmp_path)
    _, run = studio.submit(spec_of(steps=900, sampler="DPM++ 2M"))
    run.until(lambda event: isinstance(event, Progress) and event.step > 0)
    with pytest.raises(DiptychError):
        studio.engine.submit(RunRequest(id="x", spec=spec_of()), run)
    studio.engine.set_threads(2)
    assert studio.engine.threads == 2
    studio.engine.close()
    last = run.last()
    assert isinstance(last, Failed) and last.retryable


def test_the_table_is_that_of_diffusers() -> None:
    """What the gateway believes of each class, by the signatures of diffusers itself."""
    known = {kind.__name__: name for name, kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()}
    for name, traits in PIPELINES.items():
        kind = getattr(diffusers, name)
        taken = inspect.signature(kind.__call__).parameters
        assert {"prompt", "width", "height", "num_inference_steps", "generator", "output_type"} <= taken.keys(), name
        assert "callback_on_step_end" in taken or "callback" in taken, name
        assert traits.clip_skip == ("clip_skip" in taken), name
        assert not traits.negative or "negative_prompt" in taken, name
        family = known.get(name, "")
        for wanted, mapping in ((traits.repaints, AUTO_IMAGE2IMAGE_PIPELINES_MAPPING),
                                (traits.inpaints, AUTO_INPAINT_PIPELINES_MAPPING)):
            if wanted:
                assert {"image", "strength"} <= inspect.signature(mapping[family].__call__).parameters.keys(), name


def test_cards_and_folders_that_are_refused(folder_of: Folders, tmp_path: Path) -> None:
    card = identify_diffusers(folder_of("flux"))
    assert (card.family, card.architecture, card.size) == ("pipeline", "FluxPipeline", 1024)
    assert identify_diffusers(folder_of("sd3")).samplers == ("Euler", "Flow Match Euler")
    folder = tmp_path / "odd"
    folder.mkdir()
    for part in folder_of("flux").iterdir():
        (folder / part.name).symlink_to(part)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps({**index, "transformer": ["subprocess", "Popen"]}))
    with pytest.raises(BadFile, match="subprocess"):
        identify_diffusers(folder)
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableVideoDiffusionPipeline"}))
    with pytest.raises(BadFile, match="StableVideoDiffusionPipeline"):
        identify_diffusers(folder)
