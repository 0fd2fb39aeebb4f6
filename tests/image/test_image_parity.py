"""Our pictures against StableDiffusionPipeline's: same folder, prompt, sampler, steps, seed and guidance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from image_studio import Gate

from diptych.core.samplers import NORMAL_ONLY, SAMPLERS, SCHEDULES
from diptych.core.specs import ImageSpec

REFERENCE = {
    "DDPM": "DDPMScheduler", "DDIM": "DDIMScheduler", "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler", "Heun": "HeunDiscreteScheduler", "LMS": "LMSDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler", "DPM++ SDE": "DPMSolverSDEScheduler",
    "UniPC": "UniPCMultistepScheduler", "LCM": "LCMScheduler",
}
ALL = [
    (sampler, schedule) for sampler in SAMPLERS for schedule in SCHEDULES
    if schedule == "normal" or sampler not in NORMAL_ONLY
]
FOLDERS = ["kl", "tiny", "starter"]
TOLERANCE = 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")


class KarrasAncestral(EulerAncestralDiscreteScheduler):
    """Diffusers has ancestral Euler without Karras sigmas: the same class with the sigmas put in."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        other = EulerDiscreteScheduler.from_config(self.config, use_karras_sigmas=True)
        other.set_timesteps(num_inference_steps, device)
        self.sigmas, self.timesteps = other.sigmas, other.timesteps


@cache
def pipeline(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.folder_config = pipe.scheduler.config
    return pipe


def reference(folder: Path, spec: ImageSpec) -> np.ndarray:
    """The pipeline's picture, uint8 (height, width, 3)."""
    pipe = pipeline(folder)
    options: dict[str, Any] = {}
    if spec.sampler in NORMAL_ONLY:
        options["clip_sample"] = False
    elif spec.schedule == "karras":
        options["use_karras_sigmas"] = True
    if spec.sampler == "DPM++ SDE":
        options["noise_sampler_seed"] = spec.seed
    kind = getattr(diffusers, REFERENCE[spec.sampler])
    if spec.sampler == "Euler a" and options.pop("use_karras_sigmas", False):
        kind = KarrasAncestral
    pipe.scheduler = kind.from_config(pipe.folder_config, **options)
    picture = pipe(
        spec.prompt, negative_prompt=spec.negative_prompt, num_inference_steps=spec.steps, guidance_scale=spec.guidance,
        width=spec.width, height=spec.height, generator=torch.Generator("cpu").manual_seed(spec.seed)).images[0]
    return np.asarray(picture)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 4, "the reference is flat: the comparison would show nothing"
    assert ((theirs == 0) | (theirs == 255)).mean() < 0.5, "the reference is saturated"
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= TOLERANCE


def model(folders: dict[str, Path], name: str) -> Path:
    if name not in folders:
        pytest.skip(f"{name} is not there")
    return folders[name]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("sampler", "schedule"), ALL)
def test_alone(folders: dict[str, Path], studio: Callable[..., Any], name: str, sampler: str, schedule: str) -> None:
    folder = model(folders, name)
    spec = ImageSpec(prompt="a red cat", negative_prompt="blue", sampler=sampler, schedule=schedule, seed=7,
                     steps=6, guidance=3.5)
    assert_same(studio(folder).picture(spec), reference(folder, spec))


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("sampler", "schedule"), ALL)
def test_among_seven_others(
    folders: dict[str, Path], studio: Callable[..., Any], name: str, sampler: str, schedule: str
) -> None:
    folder = model(folders, name)
    spec = ImageSpec(prompt="a red cat", negative_prompt="blue", sampler=sampler, schedule=schedule, seed=7,
                     steps=6, guidance=3.5)
    start = ALL.index((sampler, schedule))
    others = [ALL[(start + offset) % len(ALL)] for offset in range(1, 8)]
    crowd = studio(folder, image_batch=8)
    gate = Gate(crowd)
    runs = []
    for number, (other, other_schedule) in enumerate(others):
        runs.append(crowd.submit(ImageSpec(
            prompt=f"cat number {number}", sampler=other, schedule=other_schedule, seed=number, steps=3 + number,
            guidance=1.0 + number)))
        if number == 3:
            mine = crowd.submit(spec)
    gate.open()
    ours = crowd.pictures(mine[1])[0]
    for _, recorder in runs:
        crowd.pictures(recorder)
    assert max(gate.rows) >= 14, "they did not share a pass"
    assert_same(ours, reference(folder, spec))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_few_steps(folders: dict[str, Path], studio: Callable[..., Any], sampler: str, steps: int) -> None:
    spec = ImageSpec(prompt="cat", sampler=sampler, seed=2**63 - 1, steps=steps, guidance=2)
    assert_same(studio(folders["kl"]).picture(spec), reference(folders["kl"], spec))


@pytest.mark.parametrize(("width", "height"), [(24, 16), (8, 40)])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_sizes_and_single_pass(
    folders: dict[str, Path], studio: Callable[..., Any], width: int, height: int, guidance: float
) -> None:
    spec = ImageSpec(prompt="blue", seed=0, steps=5, guidance=guidance, width=width, height=height)
    assert_same(studio(folders["kl"]).picture(spec), reference(folders["kl"], spec))


def test_distilled_guidance(folders: dict[str, Path], studio: Callable[..., Any]) -> None:
    spec = ImageSpec(prompt="blue", seed=0, steps=5, guidance=6, sampler="LCM")
    other = spec.model_copy(update={"guidance": 1.5})
    ours = studio(folders["lcm"])
    assert_same(ours.picture(spec), reference(folders["lcm"], spec))
    assert_same(ours.picture(other), reference(folders["lcm"], other))


def test_pictures_of_one_job_are_those_of_their_seeds(folders: dict[str, Path], studio: Callable[..., Any]) -> None:
    spec = ImageSpec(prompt="a red cat", seed=11, steps=4, count=3, sampler="Euler a")
    ours = studio(folders["kl"])
    pictures = ours.pictures(ours.submit(spec)[1])
    assert len(pictures) == 3
    for index, picture in enumerate(pictures):
        assert_same(picture, reference(folders["kl"], spec.model_copy(update={"seed": 11 + index, "count": 1})))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_old_scheduler_configs(
    folders: dict[str, Path], studio: Callable[..., Any], tmp_path: Path, spacing: str
) -> None:
    """A folder as early ones are: PNDM, clipped samples, no timestep offset."""
    folder = tmp_path / "old"
    folder.mkdir()
    for part in folders["kl"].iterdir():
        if part.name not in ("scheduler", "model_index.json"):
            (folder / part.name).symlink_to(part)
    index = (folders["kl"] / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("DDIMScheduler", "PNDMScheduler"))
    diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        timestep_spacing=spacing, steps_offset=0).save_pretrained(folder / "scheduler")
    ours = studio(folder)
    for sampler in ("DDIM", "DDPM", "Euler", "DPM++ 2M"):
        spec = ImageSpec(prompt="a red cat", sampler=sampler, seed=5, steps=7)
        assert_same(ours.picture(spec), reference(folder, spec))


@pytest.mark.parametrize("words", [0, 6, 19, 40])
def test_long_prompts(folders: dict[str, Path], studio: Callable[..., Any], words: int) -> None:
    """A prompt of several windows is each window's embeddings joined, beside a shorter request in the same batch."""
    text = " ".join(["red", "cat", "blue"][number % 3] for number in range(words)) or "cat"
    spec = ImageSpec(prompt=text, negative_prompt="blue", seed=3, steps=4)
    pipe = pipeline(folders["kl"])
    size = pipe.tokenizer.model_max_length - 2
    ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    texts = [pipe.tokenizer.decode(ids[start:start + size]) for start in range(0, len(ids), size)]
    negatives = ["blue"] + [""] * (len(texts) - 1)
    encoded = [
        pipe.encode_prompt(one, "cpu", 1, True, negative) for one, negative in zip(texts, negatives, strict=True)]
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.folder_config)
    theirs = np.asarray(pipe(
        prompt_embeds=torch.cat([pair[0] for pair in encoded], dim=1),
        negative_prompt_embeds=torch.cat([pair[1] for pair in encoded], dim=1),
        num_inference_steps=4, guidance_scale=spec.guidance, generator=torch.Generator("cpu").manual_seed(3)).images[0])
    ours = studio(folders["kl"])
    other = ours.submit(ImageSpec(prompt="cat", seed=1, steps=4))
    assert_same(ours.picture(spec), theirs)
    assert_same(ours.pictures(other[1])[0], reference(folders["kl"], ImageSpec(prompt="cat", seed=1, steps=4)))
