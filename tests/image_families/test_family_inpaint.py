"""Checkpoints for inpainting (nine channels) give what diffusers' pipeline for them gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from family_studio import FamilyStudio, assert_same, picture
from image_studio import Gate
from PIL import Image
from tiny_families import write_sdxl

from diptych.core.canvas import Mask, Rectangle
from diptych.core.image_options import Reference
from diptych.core.specs import ImageSpec
from diptych.engines.image.canvas import Canvas
from diptych.library.gguf import BadFile
from diptych.library.identify import identify_diffusers

ID = "sha256:" + "1" * 64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:diffusers")


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", ["inpaint", "sdxl-inpaint"])
def test_the_whole_is_diffusers_own(
    folder_of: Callable[[str], Path], tmp_path: Path, name: str, strength: float,
) -> None:
    folder = folder_of("inpaint") if name == "inpaint" else write_sdxl(tmp_path / "sdxl-inpaint", inputs=9)
    start = picture(2, 48, 32)
    start.save(tmp_path / "start.png")
    spec = ImageSpec(
        prompt="a red cat", negative_prompt="blue", seed=5, steps=4, guidance=4.0, width=48, height=32, init_image=ID,
        strength=strength, mask=Mask(shapes=(Rectangle(kind="rectangle", x=.25, y=.25, width=.5, height=.5),), blur=0))
    kind = StableDiffusionInpaintPipeline if name == "inpaint" else StableDiffusionXLInpaintPipeline
    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    mask = Image.fromarray(np.pad(np.full((16, 24), 255, np.uint8), ((8, 8), (12, 12))))
    expected = np.asarray(pipe(
        spec.prompt, image=start, mask_image=mask, negative_prompt=spec.negative_prompt, width=48, height=32,
        num_inference_steps=4, guidance_scale=4.0, strength=strength,
        generator=torch.Generator().manual_seed(5)).images[0])
    studio = FamilyStudio(folder, tmp_path / "out")
    try:
        assert studio.card.inpaint and studio.engine._model is not None
        assert studio.engine._model.extra_channels == 5
        ours = studio.pictures(studio.submit_with(
            spec, {Reference("input", ID, "init_image").key: str(tmp_path / "start.png")}))[0]
    finally:
        studio.engine.close()
    inside = np.asarray(mask) > 0
    assert_same(ours[inside], expected[inside])
    assert (ours[~inside] == np.asarray(start)[~inside]).all(), "what is not masked is the picture that was sent"


def test_it_paints_without_a_picture_and_beside_others(studio_of: Callable[[str], FamilyStudio]) -> None:
    """Everything is masked then; requests go together."""
    studio = studio_of("inpaint")
    specs = [ImageSpec(prompt="a red cat", seed=number, steps=3, width=32, height=32) for number in range(2)]
    alone = [studio.picture(spec) for spec in specs]
    gate = Gate(studio)
    runs = [studio.submit(spec)[1] for spec in specs]
    gate.open()
    for run, expected in zip(runs, alone, strict=True):
        assert np.abs(studio.pictures(run)[0].astype(int) - expected.astype(int)).max() <= 2
    assert max(gate.rows) == 4 and alone[0].std() > 4


@pytest.mark.parametrize(
    ("channels", "word"), [(5, "depth map"), (8, "instructions"), (7, "enlarges"), (6, "6 channels")])
def test_other_channels_are_refused_by_name(
    folder_of: Callable[[str], Path], tmp_path: Path, channels: int, word: str,
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for part in folder_of("inpaint").iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "unet").unlink()
    (folder / "unet").mkdir()
    for file in (folder_of("inpaint") / "unet").iterdir():
        (folder / "unet" / file.name).symlink_to(file)
    config: dict[str, Any] = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": channels}))
    with pytest.raises(BadFile, match=word):
        identify_diffusers(folder)


def test_canvases_are_what_pipelines_take() -> None:
    """The mask that is compared above is the one that the shapes describe."""
    spec = ImageSpec(prompt="x", init_image=ID, mask=Mask(
        shapes=(Rectangle(kind="rectangle", x=.25, y=.25, width=.5, height=.5),), blur=0))
    canvas = Canvas.of(spec, picture(2, 48, 32), None, wanted=(48, 32), own_size=32, multiple=8)
    assert canvas.mask is not None and canvas.mask[8:24, 12:36].all() and canvas.mask.sum() == 16 * 24
