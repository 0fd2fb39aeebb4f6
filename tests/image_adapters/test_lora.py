"""Pictures with LoRA adapters against diffusers with the same file, and in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import FORMS, diffusers, kohya, parts_of, write, write_peft
from diffusers import StableDiffusionPipeline
from image_studio import Gate, Studio

from diptych.core.adapters import ImageAdapter
from diptych.core.specs import ImageSpec

Painted = Callable[[ImageSpec], np.ndarray]
TOLERANCE = 2
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def spec_of(prompt: str = "a red apple on a blue background", **fields: Any) -> ImageSpec:
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": "green", "seed": 5, "steps": 3, "guidance": 3.0}
    return ImageSpec(**{**values, **fields})


def use(id: str, weight: float = 1.0, text_weight: float | None = None) -> ImageAdapter:
    return ImageAdapter(id=id, weight=weight, text_weight=text_weight)


def ours(studio: Studio, spec: ImageSpec, **files: Path) -> np.ndarray:
    """`files` by the id of the adapter."""
    named = {f"lora:{id}": str(path) for id, path in files.items()}
    return studio.pictures(studio.submit(spec, files=named)[1])[0]


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@contextmanager
def loaded(pipe: StableDiffusionPipeline, **files: tuple[Path, float]) -> Iterator[None]:
    """diffusers' pipeline with these files and weights."""
    for name, (path, _) in files.items():
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipe.set_adapters(list(files), [weight for _, weight in files.values()])
    try:
        yield
    finally:
        pipe.unload_lora_weights()


@pytest.fixture(scope="module")
def matrices(pipe: StableDiffusionPipeline) -> dict[str, dict[str, Any]]:
    return parts_of(pipe.unet, pipe.text_encoder, seed=3)


@pytest.fixture(scope="module")
def plain(adapted: Studio) -> np.ndarray:
    return ours(adapted, spec_of())


@pytest.mark.parametrize("form", FORMS)
def test_a_file_gives_the_picture_of_diffusers(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, matrices: dict[str, Any], plain: np.ndarray,
    form: str, tmp_path: Path,
) -> None:
    path = write(tmp_path, "style", FORMS[form](matrices))
    with loaded(pipe, style=(path, 0.7)):
        theirs = painted(spec_of())
    picture = ours(adapted, spec_of(adapters=[use("style", 0.7)]), style=path)
    assert difference(picture, theirs) <= TOLERANCE
    assert np.abs(picture.astype(int) - plain.astype(int)).mean() > 3, "the adapter does nothing to see"


def test_a_folder_of_peft(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, matrices: dict[str, Any], tmp_path: Path,
) -> None:
    """The UNet's half alone, with its scale in a configuration."""
    half = {"unet": matrices["unet"]}
    raw = {key.removeprefix("unet."): tensor for key, tensor in diffusers(half).items()}
    path = write_peft(tmp_path / "mine", raw, peft_type="LORA", r=4, lora_alpha=6)
    with loaded(pipe, style=(write(tmp_path, "same", kohya(half, alpha=6.0)), 1.0)):
        theirs = painted(spec_of())
    assert difference(ours(adapted, spec_of(adapters=[use("mine")]), mine=path), theirs) <= TOLERANCE


def test_convolutions(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, tmp_path: Path,
) -> None:
    parts = parts_of(pipe.unet, pipe.text_encoder, seed=9, size=0.3, conv=True)
    path = write(tmp_path, "locon", kohya(parts))
    with loaded(pipe, locon=(path, 0.8)):
        theirs = painted(spec_of())
    assert difference(ours(adapted, spec_of(adapters=[use("locon", 0.8)]), locon=path), theirs) <= TOLERANCE


def test_two_at_once(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, matrices: dict[str, Any], plain: np.ndarray,
    tmp_path: Path,
) -> None:
    other = parts_of(pipe.unet, pipe.text_encoder, seed=17)
    files = {"a": write(tmp_path, "a", kohya(matrices)), "b": write(tmp_path, "b", diffusers(other))}
    with loaded(pipe, a=(files["a"], 0.6), b=(files["b"], -0.4)):
        theirs = painted(spec_of())
    both = ours(adapted, spec_of(adapters=[use("a", 0.6), use("b", -0.4)]), **files)
    assert difference(both, theirs) <= TOLERANCE
    assert difference(ours(adapted, spec_of()), plain) == 0, "adapters stay in the model"


def test_weights_of_the_text_encoder(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, matrices: dict[str, Any], tmp_path: Path,
) -> None:
    path = write(tmp_path, "style", kohya(matrices))
    half = write(tmp_path, "half", kohya({"unet": matrices["unet"]}))
    with loaded(pipe, only_unet=(half, 0.9)):
        unet_only = painted(spec_of())
    assert difference(ours(adapted, spec_of(adapters=[use("s", 0.9, 0.0)]), s=path), unet_only) <= TOLERANCE
    words = "a red apple on a blue background <lora:S:te=0:unet=.5> <lora:s:0:.4>"
    assert difference(ours(adapted, spec_of(words, named={"lora:s": "s"}), s=path), unet_only) <= TOLERANCE


def test_requests_with_other_adapters_share_a_batch(
    adapted: Studio, pipe: StableDiffusionPipeline, matrices: dict[str, Any], tmp_path: Path,
) -> None:
    """Each of them gets the picture that it gets alone."""
    other = parts_of(pipe.unet, pipe.text_encoder, seed=17, conv=True, size=0.3)
    files = {"a": write(tmp_path, "a", kohya(matrices)), "b": write(tmp_path, "b", kohya(other))}
    named = {f"lora:{id}": str(path) for id, path in files.items()}
    wishes: list[list[ImageAdapter]] = [[use("a")], [], [use("b", 0.5)], [use("a", 0.5), use("b")], [use("a")]]
    specs = [spec_of(seed=20 + number, adapters=wish) for number, wish in enumerate(wishes)]
    alone = [ours(adapted, spec, **files) for spec in specs]
    gate = Gate(adapted)
    recorders = [adapted.submit(spec, files=named)[1] for spec in specs]
    gate.open()
    together = [adapted.pictures(recorder)[0] for recorder in recorders]
    assert max(gate.rows) == 10, "they did not go together"
    assert [difference(*pair) <= TOLERANCE for pair in zip(alone, together, strict=True)] == [True] * 5
