"""Pictures finished by the engine: after they were painted, and by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finish_networks import compact_weights, write_matting, write_weights
from image_studio import Studio
from PIL import Image
from pydantic import ValidationError

from diptych.core.errors import DiptychError
from diptych.core.events import ArtifactReady, Failed, Finished, Metrics, Progress
from diptych.core.nudity import installed
from diptych.core.specs import FinishSpec, ImageSpec
from diptych.core.watermark import detect

Stored = Callable[[Image.Image], tuple[str, dict[str, str]]]
PROMPT = "a red apple on a blue background"
NUDENET = pytest.mark.skipif(not installed(), reason="nudenet or onnxruntime is not installed")


def sample(size: int = 48) -> Image.Image:
    tiny = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(tiny).resize((size, size), Image.Resampling.BICUBIC)


def record(path: str) -> dict[str, Any]:
    with Image.open(path) as opened:
        found: dict[str, Any] = json.loads(opened.text["diptych"])  # type: ignore[attr-defined]
        return found


def test_a_painted_picture_is_finished(atelier: Studio, tmp_path: Path) -> None:
    file = write_weights(tmp_path / "net.safetensors", compact_weights(2))
    base = {"prompt": PROMPT, "steps": 3, "seed": 5}
    plain = atelier.picture(ImageSpec(**base))
    spec = ImageSpec.model_validate({**base, "count": 2, "finish": [
        {"kind": "upscale", "model": "net", "factor": 3.0}, {"kind": "watermark", "text": "Diptych"},
        {"kind": "invisible", "payload": "by me"}]})
    assert [reference.key for reference in spec.references()] == ["upscaler:net"]
    _, recorder = atelier.submit(spec, files={"upscaler:net": str(file)})
    pictures = atelier.pictures(recorder)
    assert [picture.shape for picture in pictures] == [(192, 192, 3)] * 2
    small = np.asarray(Image.fromarray(pictures[0]).resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(small[:40] - plain[:40]).mean() < 12  # the mark is at the lower edge
    assert [detect(picture) for picture in pictures] == [b"by me"] * 2
    ready = recorder.of(ArtifactReady)[0]
    assert (ready.width, ready.height) == (192, 192)
    assert record(ready.path)["spec"]["finish"][0] == {
        "kind": "upscale", "model": "net", "factor": 3.0, "width": None, "height": None}


def test_a_picture_alone(atelier: Studio, stored: Stored) -> None:
    image = sample()
    id, files = stored(image)
    spec = FinishSpec.model_validate({"image": id, "finish": [{"kind": "upscale", "factor": 2.5}], "seed": 1})
    _, recorder = atelier.submit(spec, files=files)
    assert np.array_equal(atelier.pictures(recorder)[0], np.asarray(image.resize((120, 120), Image.Resampling.LANCZOS)))
    assert FinishSpec.model_validate(record(recorder.of(ArtifactReady)[0].path)["spec"]) == spec
    assert recorder.of(Progress)[-1].step == 100 and recorder.of(Metrics)[0].values["pictures"] == 1


def test_the_background_goes(atelier: Studio, stored: Stored, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[10:30, 20:40] = (255, 0, 0)
    id, files = stored(Image.fromarray(pixels))
    files["network:u2net"] = str(write_matting(tmp_path / "u2net.onnx"))
    spec = FinishSpec.model_validate({"image": id, "finish": [{"kind": "background"}]})
    _, recorder = atelier.submit(spec, files=files)
    assert isinstance(recorder.last(), Finished)
    made = np.asarray(Image.open(recorder.of(ArtifactReady)[0].path))
    assert made.shape == (40, 60, 4) and np.array_equal(made[..., :3], pixels)
    assert made[20, 30, 3] > 240 and made[2, 2, 3] < 15


def test_boxes_are_painted_again_and_nothing_else(atelier: Studio, stored: Stored) -> None:
    image = sample(64).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 200))
    id, files = stored(image)
    box = {"x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5}
    spec = FinishSpec.model_validate({"image": id, "seed": 4, "finish": [
        {"kind": "detail", "boxes": [box], "prompt": PROMPT, "strength": 0.8, "steps": 5, "feather": 0.0}]})
    _, recorder = atelier.submit(spec, files=files)
    assert isinstance(recorder.last(), Finished), recorder.events[-1]
    made, old = np.asarray(Image.open(recorder.of(ArtifactReady)[0].path)), np.asarray(image)
    outside = np.ones((64, 64), bool)
    outside[16:48, 16:48] = False
    assert np.array_equal(made[outside], old[outside])
    assert np.abs(made[~outside].astype(int) - old[~outside]).mean() > 8
    assert record(recorder.of(ArtifactReady)[0].path)["detailed"] == [[[16, 16, 48, 48]]]


def test_a_mask_is_painted_again_after_painting(atelier: Studio, stored: Stored) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 20, 20))
    id, files = stored(mask)
    base = {"prompt": PROMPT, "steps": 4, "seed": 9}
    plain = atelier.picture(ImageSpec(**base))
    spec = ImageSpec.model_validate({**base, "finish": [
        {"kind": "detail", "mask": id, "prompt": "a green frog", "strength": 0.9, "feather": 0.0}]})
    _, recorder = atelier.submit(spec, files=files)
    made = atelier.pictures(recorder)[0]
    assert np.array_equal(made[20:], plain[20:]) and np.array_equal(made[:, 20:], plain[:, 20:])
    assert not np.array_equal(made, plain)


@NUDENET
def test_nothing_is_found_in_what_is_harmless(atelier: Studio, stored: Stored) -> None:
    id, files = stored(sample())
    _, recorder = atelier.submit(FinishSpec(image=id, nsfw="refuse"), files=files)
    assert isinstance(recorder.last(), Finished)
    assert record(recorder.of(ArtifactReady)[0].path)["nsfw"] == {"score": 0.0, "action": "none"}


@NUDENET
def test_what_is_found_is_blurred_or_refused_and_told(atelier: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that it finds something in cannot be shown here, so its score is said to be of every second one."""
    calls: list[int] = []

    def exposed(self: object, image: Image.Image) -> float:
        calls.append(1)
        return 0.9 if len(calls) % 2 else 0.1

    monkeypatch.setattr("diptych.core.nudity.Detector.exposed", exposed)
    base = {"prompt": PROMPT, "steps": 2, "seed": 3, "count": 2}
    plain = atelier.pictures(atelier.submit(ImageSpec(**base))[1])
    _, recorder = atelier.submit(ImageSpec(**base, nsfw="blur"))
    blurred = atelier.pictures(recorder)
    assert np.array_equal(blurred[1], plain[1])
    assert np.abs(np.diff(blurred[0].astype(int), axis=1)).max() < np.abs(np.diff(plain[0].astype(int), axis=1)).max()
    assert record(recorder.of(ArtifactReady)[0].path)["nsfw"] == {"score": 0.9, "action": "blur"}
    _, recorder = atelier.submit(ImageSpec(**base, nsfw="refuse"))
    last = recorder.last()
    assert isinstance(last, Failed) and (last.status, last.code, last.param) == (403, "content_filter", "nsfw")
    assert "refused 1 of 2 pictures: picture 0 (score 0.90); the others are kept" in last.message
    assert [event.index for event in recorder.of(ArtifactReady)] == [1]


def test_a_stage_that_fails_fails_its_job_alone(atelier: Studio, stored: Stored, tmp_path: Path) -> None:
    id, files = stored(sample())
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    stage = {"finish": [{"kind": "upscale", "model": "bad"}]}
    files["upscaler:bad"] = str(tmp_path / "bad.safetensors")
    runs = [atelier.submit(FinishSpec.model_validate({"image": id, **stage}), files=files)[1],
            atelier.submit(ImageSpec.model_validate({"prompt": PROMPT, "steps": 2, **stage}), files=files)[1]]
    fine = atelier.submit(ImageSpec(prompt=PROMPT, steps=3))[1]
    for run in runs:
        last = run.last()
        assert isinstance(last, Failed) and last.status == 400 and last.param == "finish[0].model", last
        assert "bad.safetensors holds no upscaler" in last.message
    assert isinstance(fine.last(), Finished)


def test_cancel_and_timeout(atelier: Studio, stored: Stored, tmp_path: Path) -> None:
    id, files = stored(sample(512))
    files["upscaler:net"] = str(write_weights(tmp_path / "net.safetensors", compact_weights(2, features=48, layers=16)))
    spec = FinishSpec.model_validate({"image": id, "finish": [{"kind": "upscale", "model": "net", "factor": 4}]},
                                     strict=False)
    name, recorder = atelier.submit(spec, files=files)
    recorder.until(lambda event: isinstance(event, Progress) and event.step > 0)
    assert atelier.engine.cancel(name)
    last = recorder.last()
    assert isinstance(last, Finished) and last.reason == "cancelled" and not recorder.of(ArtifactReady)
    assert not atelier.engine.cancel(name)
    _, late = atelier.submit(spec, files=files, timeout_seconds=0.2)
    end = late.last()
    assert isinstance(end, Failed) and (end.status, end.code) == (504, "timeout")


@pytest.mark.parametrize(("values", "error"), [
    ({"finish": []}, "has no stage"), ({"finish": [{"kind": "wipe"}]}, "does not match any of the expected tags"),
    ({"finish": [{"kind": "detail", "boxes": [{"x": 0, "y": 0, "width": 1, "height": 1}]}]}, "prompt is missing"),
    ({"finish": [{"kind": "detail", "prompt": "x"}]}, "one of detect, boxes and mask"),
    ({"finish": [{"kind": "detail", "prompt": "x", "boxes": [{"x": 1.0, "y": 0.0, "width": 1.0, "height": 1.0}]}]},
     "outside of the picture"),
    ({"finish": [{"kind": "watermark"}]}, "one of text and picture"),
    ({"finish": [{"kind": "invisible", "payload": "ä" * 17}]}, "34 bytes"),
    ({"finish": [{"kind": "invisible"}, {"kind": "upscale"}]}, "put the mark last"),
    ({"finish": [{"kind": "watermark", "picture": "nothing"}]}, "no id of an uploaded picture"),
    ({"image": "x", "finish": [{"kind": "upscale"}]}, "no id of an uploaded picture"),
    ({"nsfw": "on"}, "refuse")])
def test_bad_specs(values: dict[str, Any], error: str) -> None:
    with pytest.raises((ValidationError, DiptychError), match=error):
        FinishSpec.model_validate({"image": "sha256:" + "0" * 64, **values})
