"""Our pictures against StableDiffusionPipeline's: same folder, prompt, sampler, steps, seed and guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from image_studio import Gate, Studio
from sampler_references import NATIVE, scheduler_for

from diptych.core.samplers import SAMPLERS, TRAITS
from diptych.core.specs import ImageSpec

Rooms = Callable[[str], Studio]
FOLDERS = ["kl", "tiny", "starter"]
TOLERANCE = 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")


@cache
def pipeline(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.folder_config = pipe.scheduler.config
    return pipe


def reference(folder: Path, spec: ImageSpec) -> np.ndarray:
    """The pipeline's picture, uint8 (height, width, 3)."""
    pipe = pipeline(folder)
    pipe.scheduler = scheduler_for(spec, pipe.folder_config)
    # The pipeline gives TCD no noise unless it is told the scheduler's own usual share of it.
    options = {"eta": spec.eta if spec.eta is not None else 0.3 if spec.sampler == "TCD" else 0.0}
    picture = pipe(
        spec.prompt, negative_prompt=spec.negative_prompt, num_inference_steps=spec.steps, guidance_scale=spec.guidance,
        width=spec.width, height=spec.height, generator=torch.Generator("cpu").manual_seed(spec.seed),
        guidance_rescale=spec.guidance_rescale, **options).images[0]
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


@pytest.fixture(scope="module")
def rooms(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Studio]]:
    """Studios of the folders, each opened once."""
    opened: dict[str, Studio] = {}

    def room(name: str) -> Studio:
        if name not in opened:
            opened[name] = Studio(model(folders, name), tmp_path_factory.mktemp(name))
        return opened[name]

    yield room
    for one in opened.values():
        one.engine.close()


def short(sampler: str, schedule: str, **fields: Any) -> ImageSpec:
    values: dict[str, Any] = {"prompt": "a red cat", "negative_prompt": "blue", "seed": 7, "steps": 5, "guidance": 3.5}
    return ImageSpec(**{**values, **fields}, sampler=sampler, schedule=schedule)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("sampler", NATIVE)
def test_alone(folders: dict[str, Path], rooms: Rooms, name: str, sampler: str) -> None:
    if name == "starter" and sampler not in ("Euler", "DPM++ 2M"):
        pytest.skip("the tiny folders show the rest")
    spec = short(sampler, "normal")
    room = rooms(name)
    assert_same(room.picture(spec), reference(folders[name], spec))


@pytest.mark.parametrize(("sampler", "schedule"), [
    *((sampler, "karras") for sampler in NATIVE if "karras" in TRAITS[sampler].schedules),
    *((sampler, schedule) for sampler in ("Euler", "DPM++ 2M") for schedule in ("exponential", "beta")),
    *((sampler, schedule) for sampler in ("Euler", "DDIM") for schedule in ("uniform", "ddim uniform", "trailing"))])
def test_schedules_that_diffusers_has(folders: dict[str, Path], rooms: Rooms, sampler: str, schedule: str) -> None:
    spec = short(sampler, schedule)
    assert_same(rooms("kl").picture(spec), reference(folders["kl"], spec))


def test_among_others(folders: dict[str, Path], rooms: Rooms) -> None:
    """Every sampler beside seven pictures of other samplers, steps and guidance gives the picture it gives alone."""
    room = rooms("tiny")
    for start in range(0, len(SAMPLERS), 8):
        specs = [short(sampler, "automatic", count=1).model_copy(update={"seed": number, "steps": 3 + number % 4})
                 for number, sampler in enumerate(SAMPLERS[start:start + 8])]
        alone = [room.picture(spec) for spec in specs]
        gate = Gate(room)
        runs = [room.submit(spec)[1] for spec in specs]
        gate.open()
        for spec, picture, run in zip(specs, alone, runs, strict=True):
            found = room.pictures(run)[0]
            assert np.abs(found.astype(int) - picture.astype(int)).max() <= TOLERANCE, spec.sampler
        assert max(gate.rows) >= 2 * len(specs), "they did not share a pass"


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("sampler", NATIVE)
def test_few_steps(folders: dict[str, Path], rooms: Rooms, sampler: str, steps: int) -> None:
    spec = ImageSpec(prompt="cat", sampler=sampler, schedule="normal", seed=2**63 - 1, steps=steps, guidance=2)
    assert_same(rooms("kl").picture(spec), reference(folders["kl"], spec))


@pytest.mark.parametrize(("sampler", "fields"), [
    ("DDIM", {"eta": 0.6}), ("DDIM", {"eta": 1.0}), ("TCD", {"eta": 0.0}), ("TCD", {"eta": 0.8}),
    ("Euler", {"guidance_rescale": 0.7, "guidance": 40.0}), ("DPM++ 2M", {"guidance_rescale": 1.0, "guidance": 40.0}),
    *((sampler, {"prediction_type": kind}) for sampler in ("Euler", "Heun", "DDIM", "DPM++ 2M", "UniPC", "LCM")
      for kind in ("v_prediction", "sample")),
    *((sampler, {"zero_terminal_snr": True, "prediction_type": "v_prediction", "schedule": "trailing"})
      for sampler in ("Euler", "Euler a", "DDIM", "DDPM", "DPM++ 2M", "UniPC")),
])
def test_options(folders: dict[str, Path], rooms: Rooms, sampler: str, fields: dict[str, Any]) -> None:
    spec = short(sampler, **{"schedule": "normal", **fields})
    ours = rooms("kl").picture(spec)
    assert_same(ours, reference(folders["kl"], spec))
    plain = rooms("kl").picture(short(sampler, "normal", guidance=spec.guidance))
    assert np.abs(ours.astype(int) - plain.astype(int)).max() > TOLERANCE, "the option does nothing"


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
        spec = ImageSpec(prompt="a red cat", sampler=sampler, schedule="normal", seed=5, steps=7)
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
