"""Requests that share the batcher: joining, leaving, fairness, failures that stay where they belong."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_studio import Gate
from PIL import Image
from safetensors.torch import load_file, save_file

from diptych.core.errors import Conflict, Unavailable
from diptych.core.events import ArtifactReady, Failed, Finished, Metrics, Preview, Progress
from diptych.core.infotext import spec_from_text_chunks
from diptych.core.specs import ImageSpec
from diptych.engines.image.batcher import fair_shares
from diptych.engines.image.preview import LatentPreview
from diptych.engines.image.prompting import plain_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
Build = Callable[..., Any]
SPEC = ImageSpec(prompt="a red cat", seed=4, steps=6, guidance=3)


def spec(**fields: Any) -> ImageSpec:
    return ImageSpec.model_validate({**SPEC.model_dump(), **fields})


@given(st.lists(st.integers(0, 70), max_size=40), st.integers(1, 32))
def test_fair_shares(wanted: list[int], cap: int) -> None:
    shares = fair_shares(wanted, cap)
    assert sum(shares) == min(cap, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    for position, share in enumerate(shares):
        if share < wanted[position]:
            assert all(other <= share + 1 for other in shares), "nobody has two more than one who waits"


def test_more_callers_than_places_take_turns() -> None:
    """Three callers, one place: each has every third step, also beside one with many pictures."""
    owners, wanted = ["ann", "ann", "bob", "eve"], [9, 1, 1, 1]
    steps = [fair_shares(wanted, 1, owners, first) for first in range(6)]
    assert [owners[shares.index(1)] for shares in steps] == ["ann", "bob", "eve"] * 2
    steps = [fair_shares(wanted, 2, owners, first) for first in (0, 2, 4)]
    assert [sum(column) for column in zip(*steps, strict=True)] == [2, 0, 2, 2]
    assert fair_shares([0, 2], 1, ["ann", "bob"], 0) == [0, 1]


def test_a_newcomer_gets_its_turns_in_a_full_batch(folders: dict[str, Path], studio: Build) -> None:
    one = studio(folders["tiny"], image_batch=1)
    gate = Gate(one, closed=False)
    _, first = one.submit(ImageSpec(prompt="a", seed=1, steps=400), share="ann")
    first.until(lambda event: isinstance(event, Progress))
    begun = len(gate.rows)
    _, second = one.submit(ImageSpec(prompt="b", seed=2, steps=4), share="bob")
    second.last()
    assert len(gate.rows) - begun <= 12  # its own four, the other's four, and those that were under way
    first.last()



def test_a_late_request_joins_and_leaves_first(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    gate = Gate(room, closed=False)
    _, long = room.submit(spec(steps=150))
    long.until(lambda event: isinstance(event, Progress) and event.step >= 3)
    _, short = room.submit(spec(seed=9, steps=2))
    assert isinstance(short.last(), Finished)
    assert not any(isinstance(event, ArtifactReady) for event in long.events)
    long.last()
    assert 4 in gate.rows
    assert gate.rows.count(4) == 2


def test_many_pictures_do_not_starve_one(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"], image_batch=4)
    gate = Gate(room)
    _, many = room.submit(spec(count=24, steps=10))
    gate.open()
    many.until(lambda event: isinstance(event, Progress))
    _, one = room.submit(spec(seed=99))
    assert isinstance(one.last(), Finished)
    many.take()
    assert len(many.of(ArtifactReady)) < 8, "one of 6 steps is done long before 24 of 10 steps"
    pictures = room.pictures(many)
    assert len(pictures) == 24
    assert max(gate.rows) == 8, "the cap is of pictures, each of two rows"
    assert np.array_equal(pictures[23], room.picture(spec(seed=4 + 23, steps=10)))


def test_cancel_leaves_the_others_alone(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    alone = room.picture(SPEC)
    gate = Gate(room)
    cancelled, first = room.submit(spec(seed=1, steps=500, count=3))
    _, second = room.submit(SPEC)
    assert room.engine.cancel(cancelled)
    gate.open()
    last = first.last()
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"
    assert first.of(Metrics)
    assert len(first.of(Progress)) <= 1
    assert np.array_equal(room.pictures(second)[0], alone)
    assert not room.engine.cancel(cancelled)
    assert not room.engine.cancel("nobody")


def test_timeout(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    _, late = room.submit(spec(steps=990), timeout_seconds=0.2)
    _, other = room.submit(SPEC, timeout_seconds=60)
    last = late.last()
    assert isinstance(last, Failed)
    assert (last.code, last.status, last.retryable) == ("timeout", 504, False)
    assert "0.2" in last.message
    assert len(room.pictures(other)) == 1


def test_skip_makes_only_what_is_missing(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    _, whole = room.submit(spec(count=4))
    pictures = room.pictures(whole)
    _, rest = room.submit(spec(count=4), skip=(0, 2))
    again = room.pictures(rest)
    assert [event.index for event in sorted(rest.of(ArtifactReady), key=lambda event: event.index)] == [1, 3]
    assert np.array_equal(again[0], pictures[1])
    assert np.array_equal(again[1], pictures[3])
    progress = rest.of(Progress)
    assert progress[0].step > 12
    assert (progress[-1].step, progress[-1].steps) == (24, 24)
    _, nothing = room.submit(spec(count=1), skip=(0,))
    assert room.pictures(nothing) == []


def test_events_of_a_run(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["tiny"])
    _, recorder = room.submit(spec(steps=7, count=2, preview_every=2, width=40, sampler="Heun"))
    room.pictures(recorder)
    steps = [event.step for event in recorder.of(Progress)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 14
    assert {event.steps for event in recorder.of(Progress)} == {14}
    assert recorder.of(Progress)[-1].eta_seconds == 0
    assert all(event.eta_seconds > 0 for event in recorder.of(Progress)[:-1] if event.step)
    assert [(event.index, event.step) for event in recorder.of(Preview)] == [
        (index, step) for step in (2, 4, 6) for index in (0, 1)]
    shown = Image.open(io.BytesIO(base64.b64decode(recorder.of(Preview)[0].png)))
    assert (shown.format, shown.size) == ("PNG", (40, 32))
    values = recorder.of(Metrics)[0].values
    assert values["pictures"] == 2
    assert 0 < values["unet_seconds"] + values["decode_seconds"] <= values["seconds"]
    assert values["steps_per_second"] > 0
    assert isinstance(recorder.events[-1], Finished)
    assert isinstance(recorder.events[-2], Metrics)
    ready = recorder.of(ArtifactReady)[0]
    assert (ready.width, ready.height, ready.seed) == (40, 32, 4)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "UniPC", "LCM", "DDPM", "DPM++ SDE", "LMS"])
def test_previews_of_every_kind_of_sampler(folders: dict[str, Path], studio: Build, sampler: str) -> None:
    room = studio(folders["kl"])
    _, recorder = room.submit(spec(steps=3, preview_every=1, sampler=sampler))
    room.pictures(recorder)
    assert [event.step for event in recorder.of(Preview)] == [1, 2]


@pytest.mark.parametrize("name", ["tiny", "starter"])
def test_preview_resembles_the_decoded_picture(folders: dict[str, Path], studio: Build, name: str) -> None:
    """The linear map explains much of what the decoder does to smooth latents it was not fitted on."""
    if name not in folders:
        pytest.skip(f"{name} is not there")
    model = studio(folders[name]).engine._model
    coarse = torch.randn((1, model.latent_channels, 2, 2), generator=torch.Generator().manual_seed(5))
    latents = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    with torch.inference_mode():
        decoded = np.asarray(Image.fromarray(model.decode(latents)).resize((8, 8), Image.Resampling.BOX), dtype=float)
        shown = LatentPreview(model).pixels(latents).astype(float)
    assert decoded.std() > 1
    error = ((shown - decoded) ** 2).mean()
    assert error < 0.5 * ((decoded - decoded.mean(axis=(0, 1))) ** 2).mean()


def test_png_makes_the_same_picture_again(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    _, recorder = room.submit(spec(prompt="cät\nSteps: 3, x: 4, y: 5 \U0001f431", count=2, sampler="Euler a"))
    room.pictures(recorder)
    for event in recorder.of(ArtifactReady):
        with Image.open(event.path) as file:
            file.load()
            text, pixels = dict(file.text), np.asarray(file)  # type: ignore[attr-defined]
        assert set(text) == {"parameters", "diptych"}
        assert "0123abcd" in text["parameters"]
        again = spec_from_text_chunks(text)
        assert (again.seed, again.count, again.width) == (event.seed, 1, 16)
        assert np.array_equal(room.picture(again), pixels)
    assert sorted(path.name for path in Path(event.path).parent.iterdir()) == ["000.png", "001.png"]


def test_a_seed_is_drawn_once_and_written(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    _, recorder = room.submit(spec(seed=-1, count=2))
    room.pictures(recorder)
    first, second = recorder.of(ArtifactReady)
    assert first.seed >= 0
    assert second.seed == first.seed + 1


def test_not_a_number_fails_its_own_request_only(folders: dict[str, Path], studio: Build, tmp_path: Path) -> None:
    """A model whose embedding of one word is NaN."""
    folder = shutil.copytree(folders["kl"], tmp_path / "nan")
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    room = studio(folders["kl"])
    word = room.engine._model._encoder._tokenizer("~", add_special_tokens=False).input_ids[0]
    weights[name][word] = float("nan")
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    broken = studio(folder)
    gate = Gate(broken)
    _, good = broken.submit(SPEC)
    _, bad = broken.submit(spec(prompt="~"))
    gate.open()
    last = bad.last()
    assert isinstance(last, Failed)
    assert last.code == "not_finite"
    assert "step 1 of 6" in last.message
    assert np.array_equal(broken.pictures(good)[0], room.picture(SPEC))
    assert max(gate.rows) == 4


def test_an_error_in_the_shared_pass_finds_its_request(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    alone = room.picture(SPEC)
    target = room.engine._model.encode(plain_texts("blue"))

    def refuse(module: torch.nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        rows = options["encoder_hidden_states"]
        if any(torch.equal(row, target.positive[0]) for row in rows):
            raise RuntimeError("this row cannot be done\nand a second line")

    gate = Gate(room)
    room.engine._model.unet.register_forward_pre_hook(refuse, with_kwargs=True)
    _, first = room.submit(SPEC)
    _, bad = room.submit(spec(prompt="blue"))
    _, third = room.submit(spec(seed=77))
    gate.open()
    last = bad.last()
    assert isinstance(last, Failed)
    assert last.message == "the picture could not be made: this row cannot be done"
    assert np.array_equal(room.pictures(first)[0], alone)
    assert len(room.pictures(third)) == 1


def test_out_of_memory_makes_smaller_batches(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    alone = room.picture(SPEC)

    def refuse(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0].shape[0] > 4:
            raise torch.OutOfMemoryError("out of memory")

    gate = Gate(room)
    room.engine._model.unet.register_forward_pre_hook(refuse)
    runs = [room.submit(spec(seed=seed)) for seed in (4, 5, 6, 7, 8)]
    gate.open()
    pictures = [room.pictures(recorder)[0] for _, recorder in runs]
    assert np.array_equal(pictures[0], alone)
    assert sum(rows > 4 for rows in gate.rows) <= 2, "it is not tried again at every step"


def test_a_folder_that_is_gone_fails_its_own_request_only(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    gate = Gate(room)
    name, bad = room.submit(SPEC)
    _, good = room.submit(SPEC)
    shutil.rmtree(room.out / name)
    gate.open()
    last = bad.last()
    assert isinstance(last, Failed)
    assert last.code == "write_failed"
    assert str(room.out) not in last.message
    assert len(room.pictures(good)) == 1


def test_a_listener_that_fails_ends_its_run(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    _, other = room.submit(SPEC)

    def deaf(event: Any) -> None:
        raise BrokenPipeError

    from diptych.core.protocol import RunRequest
    room.engine.submit(RunRequest(id="deaf", spec=spec(steps=900), output_dir=str(room.out)), deaf)
    assert len(room.pictures(other)) == 1
    assert room.picture(spec(seed=8)).shape == (16, 16, 3)
    assert not room.engine.cancel("deaf")


def test_close_ends_what_runs(folders: dict[str, Path], studio: Build) -> None:
    room = studio(folders["kl"])
    name, recorder = room.submit(spec(steps=900))
    recorder.until(lambda event: isinstance(event, Progress))
    with pytest.raises(Conflict):
        room.submit(SPEC, id=name)
    room.engine.close()
    last = recorder.last()
    assert isinstance(last, Failed)
    assert last.retryable
    assert recorder.idle
    with pytest.raises(Unavailable):
        room.submit(SPEC)
