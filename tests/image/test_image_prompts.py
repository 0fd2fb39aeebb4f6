"""The prompt language in the engine: what the text encoder is given, and what reaches the UNet in each step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from image_studio import Gate

from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.chunks import Chunk, chunked
from diptych.engines.image.model import Contexts, Pass
from diptych.engines.image.prompting import PicturePrompts, plain_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
Build = Callable[..., Any]
BODY = 18
"""Tokens of the tiny encoder's window between begin and end."""


def spec(prompt: str, **fields: Any) -> ImageSpec:
    return ImageSpec.model_validate({"prompt": prompt, "seed": 4, "steps": 4, "guidance": 3, **fields})


def with_mean(room: Any) -> Any:
    """A text encoder whose states have a mean, as trained ones do: a fresh norm's is zero."""
    model = room.engine._model
    generator = torch.Generator().manual_seed(1)
    norm = model._encoder._text_encoder.final_layer_norm
    norm.bias.data = torch.rand(norm.bias.shape, generator=generator)
    norm.weight.data = 0.5 + torch.rand(norm.weight.shape, generator=generator)
    return model


def encode(model: Any, prompt: str, step: int = 0, **fields: Any) -> Contexts:
    with torch.inference_mode():
        found: Contexts = model.encode(PicturePrompts(spec(prompt, **fields), 0).at(step))
    return found


def hidden(model: Any, words: list[str], layer: int = 1) -> torch.Tensor:
    """What the encoder says of these words in one window, layer by layer; a plain computation."""
    encoder, tokenizer = model._encoder._text_encoder, model._encoder._tokenizer
    ids = [token for word in words for token in tokenizer(word, add_special_tokens=False).input_ids]
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (BODY + 2 - len(row))
    with torch.inference_mode():
        states = encoder(torch.tensor([row]), output_hidden_states=True).hidden_states
        result: torch.Tensor = encoder.final_layer_norm(states[len(states) - layer])
    return result


def ids_of(model: Any, text: str) -> list[int]:
    found: list[int] = model._encoder._tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_weights_multiply_and_keep_the_mean(folders: dict[str, Path], studio: Build) -> None:
    model = with_mean(studio(folders["kl"]))
    plain = hidden(model, ["a", "red", "cat", "blue"])
    sizes = [len(ids_of(model, word)) for word in ("a", "red", "cat", "blue")]
    weights = [1.0] + [1.0] * sizes[0] + [1.3] * sizes[1] + [0.55] * sizes[2] + [1.0] * sizes[3]
    weights += [1.0] * (BODY + 2 - len(weights))
    expected = plain.clone()
    for place, weight in enumerate(weights):
        expected[0, place] *= weight
    expected *= plain.mean() / expected.mean()
    found = encode(model, "a (red:1.3) (cat:0.55) blue").positive
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.mean() == pytest.approx(float(plain.mean()), rel=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_mean_of_nothing_is_not_divided_by(folders: dict[str, Path], studio: Build) -> None:
    model = studio(folders["kl"]).engine._model
    plain = hidden(model, ["red"])
    found = encode(model, "(red:1.5)").positive
    assert torch.allclose(found[0, 1], plain[0, 1] * 1.5, atol=1e-6)
    assert torch.equal(found[0, 3:], plain[0, 3:])
    assert bool(torch.isfinite(encode(model, "(red:0)").positive).all())


def test_words_alone_are_as_they_were(folders: dict[str, Path], studio: Build) -> None:
    """To the bit what the encoder itself gives, whatever the syntax is called."""
    model = studio(folders["kl"]).engine._model
    encoder, tokenizer = model._encoder._text_encoder, model._encoder._tokenizer
    text = "a red cat, 16:9"
    inputs = tokenizer(text, padding="max_length", max_length=BODY + 2, return_tensors="pt")
    with torch.inference_mode():
        expected = encoder(inputs.input_ids)[0]
        assert torch.equal(model.encode(plain_texts(text)).positive, expected)
    assert torch.equal(encode(model, text).positive, expected)
    assert torch.equal(encode(model, text, prompt_syntax="plain").positive, expected)
    assert torch.equal(encode(model, "(a red cat, 16:9:1.0)").positive, expected)
    assert torch.equal(encode(model, r"\(red\)").positive, encode(model, "(red)", prompt_syntax="plain").positive)
    assert not torch.equal(encode(model, "(red)").positive, encode(model, "(red)", prompt_syntax="plain").positive)


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip(folders: dict[str, Path], studio: Build, skip: int) -> None:
    model = with_mean(studio(folders["kl"]))
    found = encode(model, "a cat", clip_skip=skip)
    assert torch.allclose(found.positive, hidden(model, ["a", "cat"], skip), atol=1e-6)
    assert torch.allclose(found.negative, hidden(model, [], skip), atol=1e-6)


def test_clip_skip_as_diffusers_has_it(folders: dict[str, Path], studio: Build) -> None:
    """Diffusers counts the layers that are left out, and leaves out none for the negative prompt: A1111 does."""
    pipe = StableDiffusionPipeline.from_pretrained(folders["kl"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)  # transformers 5 has no such part any more
    positive, negative = (pipe.encode_prompt(text, "cpu", 1, False, clip_skip=1)[0] for text in ("a red cat", ""))
    theirs = np.asarray(pipe(prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=4,
                             guidance_scale=3.0, generator=torch.Generator("cpu").manual_seed(4)).images[0])
    room = studio(folders["kl"])
    ours = room.picture(spec("a red cat", clip_skip=2, sampler="DDIM"))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2
    assert not np.array_equal(ours, room.picture(spec("a red cat", sampler="DDIM")))
    with pytest.raises(InvalidRequest, match="has 2 layers") as refused:
        room.submit(spec("a", clip_skip=3))
    assert refused.value.param == "clip_skip"


def test_chunks() -> None:
    assert chunked([], 3) == [Chunk()]
    assert chunked([([1, 2], 1.0), ([3, 4], 2.0)], 3) == [Chunk((1, 2, 3), (1.0, 1.0, 2.0)), Chunk((4,), (2.0,))]
    assert chunked([([1, 2, 3], 1.0), None, ([4], 1.0)], 3) == [Chunk((1, 2, 3), (1.0,) * 3), Chunk((4,), (1.0,))]
    assert [len(chunk.tokens) for chunk in chunked([None, ([1], 1.0), None], 3)] == [0, 1]


def test_break_and_long_prompts(folders: dict[str, Path], studio: Build) -> None:
    model = with_mean(studio(folders["kl"]))
    parts = [hidden(model, ["red"]), hidden(model, ["cat"]), hidden(model, [])]
    found = encode(model, "red BREAK cat", negative_prompt="cat")
    assert torch.allclose(found.positive, torch.cat(parts[:2], dim=1), atol=1e-6)
    assert torch.allclose(found.negative, torch.cat(parts[1:], dim=1), atol=1e-6)
    long = encode(model, "red " * (BODY + 1) + "(cat:1.2)")
    assert long.positive.shape[1] == 2 * (BODY + 2)
    assert torch.allclose(long.positive[:, :BODY + 2], hidden(model, ["red"] * BODY), atol=1e-6)


def contexts_of_passes(room: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []

    def look(module: torch.nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        seen.append(options["encoder_hidden_states"].clone())

    room.engine._model.unet.register_forward_pre_hook(look, with_kwargs=True)
    return seen


def test_the_prompt_changes_with_the_steps(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    room.picture(spec("a"))
    seen = contexts_of_passes(room)
    room.picture(spec("a [red:cat BREAK blue:0.5]", negative_prompt="[x|y]"))
    model = room.engine._model
    for step, (prompt, negative) in enumerate([
            ("a red", "x"), ("a red", "y"), ("a cat BREAK blue", "x"), ("a cat BREAK blue", "y")]):
        expected = encode(model, prompt, negative_prompt=negative)
        assert torch.equal(seen[step], torch.cat([expected.negative, expected.positive]))


@pytest.mark.parametrize("sampler", ["Euler", "Heun"])
def test_a_change_leaves_the_steps_before_it_alone(folders: dict[str, Path], studio: Build, sampler: str) -> None:
    room = studio(folders["kl"])
    plain, late, never = (
        room.picture(spec(prompt, sampler=sampler)) for prompt in ("red", "[red:blue:3]", "[red:blue:4]"))
    assert np.array_equal(plain, never)
    assert not np.array_equal(plain, late)
    assert np.array_equal(room.picture(spec("[red:blue:0]", sampler=sampler)), room.picture(
        spec("blue", sampler=sampler)))


def test_and_adds_what_each_part_leads_to(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    model = room.engine._model
    seen: list[tuple[torch.Tensor, float, torch.Tensor]] = []
    predict = model.predict

    def look(asked: Pass) -> torch.Tensor:
        rows: torch.Tensor = predict(asked)
        seen.append((asked.latents.clone(), float(asked.timesteps[0]), rows.clone()))
        return rows

    model.predict = look
    text = "red AND cat :0.5 AND blue :-0.25"
    room.picture(spec(text, steps=2, sampler="DDIM"))
    assert [len(latents) for latents, _, _ in seen[:2]] == [2, 2], "no more rows at once than two of a picture"
    first = torch.cat([rows for _, _, rows in seen[:2]])
    scheduler = DDIMScheduler.from_pretrained(folders["kl"] / "scheduler")
    scheduler.set_timesteps(2)
    lead = (first[1] - first[0]) + 0.5 * (first[2] - first[0]) - 0.25 * (first[3] - first[0])
    expected = scheduler.step(first[:1] + 3 * lead, scheduler.timesteps[0], seen[0][0][:1]).prev_sample
    assert torch.allclose(seen[2][0][:1], expected, atol=1e-4)
    assert torch.equal(encode(model, text).positive[1:2], encode(model, "cat").positive)


def test_and_of_one_is_that_one(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    alone = room.picture(spec("red"))
    halves = room.picture(spec("red :0.5 AND red :0.5")).astype(int)
    assert np.abs(halves - alone).max() <= 2
    room.picture(spec("red AND cat", guidance=1))
    distilled = studio(folders["lcm"], image_batch=1)
    with pytest.raises(InvalidRequest, match="AND"):
        distilled.submit(spec("red AND cat", sampler="LCM"))


def test_different_prompts_share_a_batch(folders: dict[str, Path], studio: Build) -> None:
    """Lanes of one, two and changing numbers of chunks and of parts: each picture is what it is alone."""
    prompts = ["red", "red BREAK cat", "[red:red BREAK cat:0.5]", "red AND blue", "[a|b] (cat:1.4)", "(red:1.2)"]
    alone = studio(folders["kl"])
    expected = [alone.picture(spec(prompt, seed=seed)) for seed, prompt in enumerate(prompts)]
    room = studio(folders["kl"])
    gate = Gate(room)
    runs = [room.submit(spec(prompt, seed=seed)) for seed, prompt in enumerate(prompts)]
    gate.open()
    for (_, recorder), picture in zip(runs, expected, strict=True):
        assert np.abs(room.pictures(recorder)[0].astype(int) - picture.astype(int)).max() <= 2
    assert max(gate.rows) > 4


def test_each_picture_is_painted_of_its_own_text(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    asked = spec("{red|blue}", count=2, resolved=({"prompt": "red"}, {"prompt": "blue", "negative_prompt": "x"}))
    _, recorder = room.submit(asked)
    first, second = room.pictures(recorder)
    assert np.array_equal(first, room.picture(spec("red")))
    assert np.array_equal(second, room.picture(spec("blue", negative_prompt="x", seed=5)))


def test_a_network_is_refused(folders: dict[str, Path], studio: Build) -> None:
    with pytest.raises(InvalidRequest, match="<lora:x>"):
        studio(folders["kl"]).submit(spec("a <lora:x:1>"))
