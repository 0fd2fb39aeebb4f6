"""Pictures made from pictures and in several passes: against diffusers' own pipelines, and by what has to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from image_studio import Gate, Recorder, Studio, card_of
from PIL import Image
from sampler_references import NATIVE, scheduler_for

from diptych.core.errors import InvalidRequest
from diptych.core.events import Progress
from diptych.core.protocol import RunRequest
from diptych.core.samplers import SAMPLERS
from diptych.core.specs import ImageSpec
from diptych.engines.image.blend import interpolated, slerp
from diptych.engines.image.tiling import Tiling

Build = Callable[..., Studio]
TOLERANCE = 2
SIDE = 32
HALF = {"shapes": [{"kind": "rectangle", "x": 0, "y": 0, "width": 0.5, "height": 1}], "blur": 0.0}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str], Image.Image]:
    """A picture: its id, where it lies, and itself."""
    down, across = np.mgrid[0:SIDE, 0:SIDE]
    values = np.stack([across * 7, down * 6, 255 - across * 3 - down * 4], axis=2).astype(np.uint8)
    picture = Image.fromarray(values)
    path = tmp_path_factory.mktemp("inputs") / "picture.png"
    picture.save(path)
    id = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return id, {f"input:{id}": str(path)}, picture


def spec_of(**fields: Any) -> ImageSpec:
    given = {"prompt": "red cat", "steps": 4, "guidance": 3.0, "seed": 5, "width": SIDE, "height": SIDE, **fields}
    return ImageSpec(**given)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and theirs.std() > 4
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= TOLERANCE


@pytest.fixture(scope="module")
def room(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    studio = Studio(folders["kl"], tmp_path_factory.mktemp("out"))
    yield studio
    studio.engine.close()


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in (("img2img", StableDiffusionImg2ImgPipeline), ("inpaint", StableDiffusionInpaintPipeline)):
        pipe = kind.from_pretrained(folders["kl"], local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        found[name] = pipe
    found["config"] = pipe.scheduler.config
    return found


def theirs(pipes: dict[str, Any], name: str, spec: ImageSpec, picture: Image.Image, **more: Any) -> np.ndarray:
    pipe = pipes[name]
    pipe.scheduler = scheduler_for(spec, pipes["config"])
    eta = {"eta": 0.3} if spec.sampler == "TCD" else {}
    made = pipe(
        prompt=spec.prompt, image=picture, strength=spec.strength, num_inference_steps=spec.steps,
        guidance_scale=spec.guidance, generator=torch.Generator("cpu").manual_seed(spec.seed), **eta, **more).images[0]
    return np.asarray(made)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name in NATIVE])
def test_img2img_is_diffusers_own(room: Studio, pipes: dict[str, Any], inputs: Any, sampler: str) -> None:
    id, files, picture = inputs
    spec = spec_of(init_image=id, strength=0.6, steps=6, sampler=sampler)
    ours = room.pictures(room.submit(spec, files=files)[1])[0]
    assert_same(ours, theirs(pipes, "img2img", spec, picture))


@pytest.mark.parametrize(("sampler", "strength"), [
    ("Euler", 0.75), ("Euler", 1.0), ("DPM++ 2M", 0.75), ("Heun", 0.75), ("DDIM", 1.0), ("LCM", 0.5)])
def test_inpainting_is_diffusers_own(
    room: Studio, pipes: dict[str, Any], inputs: Any, sampler: str, strength: float,
) -> None:
    """Where the mask is; elsewhere diffusers shows what the VAE makes of the picture, and we the picture itself."""
    id, files, picture = inputs
    spec = spec_of(init_image=id, mask=HALF, strength=strength, sampler=sampler)
    ours = room.pictures(room.submit(spec, files=files)[1])[0]
    white = Image.new("L", (SIDE, SIDE))
    white.paste(255, (0, 0, SIDE // 2, SIDE))
    reference = theirs(pipes, "inpaint", spec, picture, mask_image=white, width=SIDE, height=SIDE)
    assert_same(ours[:, :SIDE // 2], reference[:, :SIDE // 2])
    assert np.array_equal(ours[:, SIDE // 2:], np.asarray(picture)[:, SIDE // 2:])


def test_each_picture_is_the_same_among_others(room: Studio, inputs: Any) -> None:
    """One pass of the UNet for pictures of every kind."""
    id, files, _ = inputs
    specs = [spec_of(), spec_of(init_image=id, strength=0.75), spec_of(init_image=id, mask=HALF, seed=8),
             spec_of(variation_strength=0.4, variation_seed=3), spec_of(init_image=id, strength_schedule=[0.2, 1.0])]
    alone = [room.pictures(room.submit(spec, files=files)[1])[0] for spec in specs]
    gate = Gate(room)
    runs = [room.submit(spec, files=files)[1] for spec in specs]
    gate.open()
    for one, run in zip(alone, runs, strict=True):
        assert np.abs(one.astype(int) - room.pictures(run)[0]).max() <= 1
    assert max(gate.rows) >= 2 * 3, "they were not denoised together"


def test_a_schedule_of_zeros_holds_to_the_picture(room: Studio, inputs: Any) -> None:
    """Whatever the prompt and the steps are; a schedule of ones is none."""
    id, files, _ = inputs

    def made(**fields: Any) -> np.ndarray:
        return room.pictures(room.submit(spec_of(init_image=id, strength=1.0, **fields), files=files)[1])[0]

    held = made(strength_schedule=[0.0])
    assert np.abs(held.astype(int) - made(strength_schedule=[0.0], prompt="blue", steps=7)).max() <= 1
    free = made()
    assert np.array_equal(made(strength_schedule=[1.0, 1.0]), free)
    between = made(strength_schedule=[1.0, 0.5])
    far, near = (np.abs(one.astype(int) - held).mean() for one in (free, between))
    assert 0 < near < far


def test_a_whole_variation_is_the_other_seed(room: Studio) -> None:
    plain = room.picture(spec_of(seed=11))
    assert np.array_equal(room.picture(spec_of(seed=4, variation_seed=11, variation_strength=1.0)), plain)
    some, more = (room.picture(spec_of(seed=4, variation_seed=11, variation_strength=share)) for share in (0.2, 0.7))
    distance = [np.abs(picture.astype(int) - plain).mean() for picture in (some, more)]
    assert distance[0] > distance[1] > 0
    two = room.pictures(room.submit(spec_of(seed=4, variation_seed=10, variation_strength=1.0, count=2))[1])
    assert np.array_equal(two[1], plain), "the next picture has the next variation seed"


def test_hires_goes_on_from_the_first_pass(room: Studio, inputs: Any) -> None:
    """The second pass is that of img2img on the enlarged latents, with all its steps told."""
    spec = spec_of(steps=4, hires={"scale": 2.0, "strength": 0.5, "steps": 6, "upscaler": "lanczos"})
    run = room.submit(spec)[1]
    picture = room.pictures(run)[0]
    assert picture.shape == (2 * SIDE, 2 * SIDE, 3)
    told = run.of(Progress)
    assert told[-1].steps == 4 + 3 and told[-1].step == 7
    first = Image.fromarray(room.picture(spec_of(steps=4))).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    weak = room.picture(spec_of(steps=4, hires={"scale": 2.0, "strength": 0.2, "steps": 6, "upscaler": "lanczos"}))
    far, near = (np.abs(one.astype(int) - np.asarray(first)).mean() for one in (picture, weak))
    assert near < far, "a weaker second pass stays nearer to the first one's picture"


@pytest.mark.parametrize("upscaler", ["latent", "latent antialiased", "latent bicubic", "latent nearest", "nearest"])
def test_hires_upscalers(room: Studio, upscaler: str) -> None:
    spec = spec_of(steps=2, hires={"width": 48, "height": 40, "strength": 1.0, "upscaler": upscaler, "sampler": "DDIM"})
    assert room.picture(spec).shape == (40, 48, 3)


def test_the_same_model_as_refiner_changes_nothing(folders: dict[str, Path], room: Studio) -> None:
    def refined(name: str, switch_at: float) -> np.ndarray:
        card = card_of(folders[name])
        spec = spec_of(steps=5, refiner={"model": name, "switch_at": switch_at})
        return room.pictures(room.submit(spec, models={name: card})[1])[0]

    plain = room.picture(spec_of(steps=5))
    assert np.abs(refined("kl", 0.5).astype(int) - plain).max() <= 1
    with pytest.raises(InvalidRequest, match="latents are of another kind") as told:
        refined("tiny", 0.5)
    assert told.value.param == "refiner.model"


@pytest.mark.parametrize(("mode", "dims"), [("both", (2, 3)), ("x", (3,)), ("y", (2,))])
def test_tiled_convolutions_wrap_around(mode: str, dims: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 3, padding=1))
    x = torch.randn(1, 3, 8, 8)
    plain, tiling = layers(x), Tiling(layers)
    tiling.set(mode)
    moved = [3] * len(dims)
    assert torch.allclose(layers(x.roll(moved, dims)), layers(x).roll(moved, dims), atol=1e-5)
    other = tuple({2, 3} - set(dims))
    if other:
        assert not torch.allclose(layers(x.roll([3], other)), layers(x).roll([3], other), atol=1e-3)
    tiling.set("none")
    assert torch.equal(layers(x), plain)


def test_tiled_pictures_have_no_seam(room: Studio) -> None:
    """The difference between opposite sides is that between neighbours."""
    tiled, plain = (room.picture(spec_of(steps=6, tiling=mode)) for mode in ("both", "none"))
    again = room.picture(spec_of(steps=6))
    assert np.array_equal(plain, again), "tiling is for the pictures that want it"
    assert not np.array_equal(tiled, plain)


def test_mixing_noise_keeps_its_length() -> None:
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randn(1, 4, 16, 16, generator=generator) for _ in range(2))
    for share in (0.0, 0.3, 0.5, 1.0):
        assert slerp(share, one, two).std() == pytest.approx(1, abs=0.05)
    assert torch.allclose(slerp(0.0, one, two), one) and torch.allclose(slerp(1.0, one, two), two, atol=1e-5)
    assert interpolated([0.0, 1.0], 0.25) == 0.25 and interpolated([0.5], 1.0) == 0.5


@pytest.mark.parametrize(("fields", "param"), [
    ({"init_image": "x", "strength": 0.1, "steps": 4}, "strength"),
    ({"hires": {"strength": 0.05, "steps": 4}}, "hires.strength"),
    ({"hires": {"sampler": "Eule"}}, "hires.sampler"),
    ({"hires": {"width": 64}}, "hires.width"),
    ({"hires": {}, "init_image": "x"}, "hires"),
    ({"strength_schedule": [0.5]}, "strength_schedule"),
    ({"mask": HALF}, "mask"),
    ({"refiner": {"model": "nobody"}}, "refiner.model"),
])
def test_refusals_name_the_field(room: Studio, inputs: Any, fields: dict[str, Any], param: str) -> None:
    id, files, _ = inputs
    given = {name: id if value == "x" else value for name, value in fields.items()}
    with pytest.raises(InvalidRequest) as told:
        room.engine.submit(_request(spec_of(**given), files, room.out), Recorder())
    assert told.value.param == param


def _request(spec: ImageSpec, files: dict[str, str], out: Path) -> Any:
    return RunRequest(id="refused", spec=spec, output_dir=str(out), files=files)


def test_a_picture_that_is_gone_is_named(room: Studio, inputs: Any) -> None:
    with pytest.raises(InvalidRequest, match="send it again") as told:
        room.submit(spec_of(init_image=inputs[0]), files={})
    assert told.value.param == "init_image"
