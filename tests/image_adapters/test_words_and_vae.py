"""Embeddings in prompts and another VAE, against diffusers with the same files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_files import kohya, parts_of, write
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from image_studio import Studio
from ldm_checkpoint import Checkpoint
from test_lora import difference, loaded, spec_of

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.adapters.embeddings import Vectors, divided
from diptych.engines.image.chunks import chunked

Painted = Callable[..., np.ndarray]
TOLERANCE = 2
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def vectors(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """Three words' vectors, of the size that words have."""
    table = pipe.text_encoder.get_input_embeddings().weight
    return table.detach().std() * 3 * torch.randn((3, 192), generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def inverted(pipe: StableDiffusionPipeline, vectors: torch.Tensor) -> StableDiffusionPipeline:
    """diffusers' pipeline with the embedding under the word "zorp"."""
    made = StableDiffusionPipeline(**{**pipe.components, "tokenizer": copy.deepcopy(pipe.tokenizer),
                                      "text_encoder": copy.deepcopy(pipe.text_encoder)},
                                   requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    made.load_textual_inversion({"zorp": vectors}, token="zorp")
    return made


def paint(pipe: StableDiffusionPipeline, spec: ImageSpec, prompt: str, negative: str) -> np.ndarray:
    return np.asarray(pipe(prompt, negative_prompt=negative, num_inference_steps=spec.steps,
                           guidance_scale=spec.guidance,
                           generator=torch.Generator("cpu").manual_seed(spec.seed)).images[0])


@pytest.mark.parametrize(("form", "prompt", "negative"), [
    ("emb_params", "a zorp apple", "green"), ("<zorp>", "an apple, Zorp, red", "embedding:zorp green")])
def test_an_embedding_gives_the_picture_of_diffusers(
    adapted: Studio, inverted: StableDiffusionPipeline, vectors: torch.Tensor, form: str, prompt: str, negative: str,
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "zorp", {form: vectors})
    spec = spec_of(prompt, negative_prompt=negative, named={"embedding:zorp": "z"})
    words = [text.replace("Zorp", "zorp").replace("embedding:", "") for text in (prompt, negative)]
    theirs = paint(inverted, spec, *words)
    ours = adapted.pictures(adapted.submit(spec, files={"embedding:z": str(path)})[1])[0]
    assert difference(ours, theirs) <= TOLERANCE
    assert difference(ours, adapted.picture(spec_of(prompt, negative_prompt=negative))) > 20


def test_an_embedding_and_a_lora_and_weights(
    adapted: Studio, inverted: StableDiffusionPipeline, vectors: torch.Tensor, tmp_path: Path,
) -> None:
    """The text encoder's cache keeps what was made with adapters apart from what was made without."""
    parts = parts_of(inverted.unet, inverted.text_encoder, seed=3)
    files = {"embedding:z": str(write(tmp_path, "zorp", {"emb_params": vectors})),
             "lora:l": str(write(tmp_path, "l", kohya(parts)))}
    spec = spec_of("a zorp apple <lora:l>", named={"embedding:zorp": "z", "lora:l": "l"})
    plain = spec_of("a zorp apple", named={"embedding:zorp": "z"})
    with loaded(inverted, both=(Path(files["lora:l"]), 1.0)):
        theirs = paint(inverted, spec, "a zorp apple", "green")
    assert difference(adapted.pictures(adapted.submit(spec, files=files)[1])[0], theirs) <= TOLERANCE
    without = adapted.pictures(adapted.submit(plain, files=files)[1])[0]
    assert difference(without, paint(inverted, plain, "a zorp apple", "green")) <= TOLERANCE


def test_where_embeddings_stand_in_a_text() -> None:
    words = {"bad-hands": (-1, -2)}
    assert list(divided("a (b), embedding:Bad-Hands, c", words)) == ["a (b), ", (-1, -2), ", c"]
    assert list(divided("bad-hands", words)) == [(-1, -2)]
    assert list(divided("bad-handss", words)) == ["bad-handss"] and list(divided("", words)) == [""]
    chunks = chunked([([1, 2, 3], 1.0), ((-1, -2), 1.5), ([4], 1.0)], 4)
    assert [chunk.tokens for chunk in chunks] == [(1, 2, 3), (-1, -2, 4)]
    assert chunks[1].weights == (1.5, 1.5, 1.0)


def test_embeddings_of_two_encoders(tmp_path: Path) -> None:
    table = Vectors({"text_encoder": 8, "text_encoder_2": 12})
    made = table.load(write(tmp_path, "xl", {"clip_l": torch.ones(2, 8), "clip_g": torch.zeros(2, 12)}), "xl")
    assert len(made.ids) == 2 and all(number < 0 for number in made.ids)
    assert {place: len(one) for place, one in table.of("text_encoder_2", (5, *made.ids)).items()} == {1: 12, 2: 12}
    for name, tensors in {"one": {"emb_params": torch.ones(2, 8)},
                          "uneven": {"clip_l": torch.ones(2, 8), "clip_g": torch.zeros(3, 12)}}.items():
        with pytest.raises(InvalidRequest, match=f"embedding '{name}' is for another family"):
            table.load(write(tmp_path, name, tensors), name)
    with pytest.raises(InvalidRequest, match="not finite"):
        endless = torch.full((2, 12), torch.inf)
        table.load(write(tmp_path, "nan", {"clip_l": torch.ones(2, 8), "clip_g": endless}), "nan")


def own_vae(pipe: StableDiffusionPipeline) -> Any:
    """A VAE of the kind of the model's, with other weights."""
    vae = copy.deepcopy(pipe.vae)
    generator = torch.Generator().manual_seed(8)
    for value in vae.parameters():
        value.data += 0.15 * value.std() * torch.randn(value.shape, generator=generator) if value.numel() > 1 else 0
    return vae


def test_another_vae(
    adapted: Studio, pipe: StableDiffusionPipeline, painted: Painted, tmp_path: Path,
) -> None:
    other = own_vae(pipe)
    other.save_pretrained(tmp_path / "other")
    spec = spec_of(vae="other")
    ours = adapted.pictures(adapted.submit(spec, files={"vae:other": str(tmp_path / "other")})[1])[0]
    plain, before = painted(spec_of()), pipe.vae
    pipe.vae = other
    try:
        theirs = painted(spec_of())
    finally:
        pipe.vae = before
    assert difference(ours, theirs) <= TOLERANCE and difference(ours, plain) > 20
    single = tmp_path / "other" / "diffusion_pytorch_model.safetensors"
    again = adapted.pictures(adapted.submit(spec, files={"vae:other": str(single)})[1])[0]
    assert difference(again, ours) <= TOLERANCE


def test_vaes_of_other_kinds_are_refused(adapted: Studio, tmp_path: Path) -> None:
    AutoencoderKL(block_out_channels=(32, 32), latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
                  up_block_types=("UpDecoderBlock2D",) * 2).save_pretrained(tmp_path / "kl")
    AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path / "taesd")
    made = Checkpoint(second=False)
    made.layer("encoder.conv_in", 8, 3, 3, 3)
    damaged = write(tmp_path, "damaged", made.weights)
    for path, words in ((tmp_path / "kl", "4 channels and 1/2 of the side"), (tmp_path / "taesd", "4 channels"),
                        (tmp_path / "taesd" / "diffusion_pytorch_model.safetensors", "4 channels"),
                        (damaged, "could not be loaded"), (tmp_path / "nowhere", "could not be loaded")):
        with pytest.raises(InvalidRequest, match=words) as refused:
            adapted.submit(spec_of(vae="other"), files={"vae:other": str(path)})
        assert refused.value.param == "vae"
