"""Pictures from pictures on a real server with a tiny model: jobs, OpenAI's own client, and the command."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from canvas_pictures import BAD_FILES, BODY_LIMIT, GOOD_FILES, SIZE, base64_of, decoded, encoded, photo
from PIL import Image

from api_server import Server
from diptych.api.native.schema import JobRequest

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
FORM: dict[str, Any] = {"model": "tiny", "prompt": "x"}
FEW: dict[str, Any] = {"steps": 2, "seed": 3}
HOLE = np.s_[10:30, 20:40]
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def client(canvas_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{canvas_server.url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


def holed(picture: Image.Image) -> Image.Image:
    """With a transparent hole."""
    pixels = np.dstack((np.asarray(picture.convert("RGB")), np.full(picture.size[::-1], 255, np.uint8)))
    pixels[HOLE] = 0
    return Image.fromarray(pixels)


def pictures_of(answer: Any) -> list[np.ndarray]:
    return [decoded(base64.b64decode(item.b64_json or "")) for item in answer.data or []]


def run(http: httpx.Client, until: Until, **fields: Any) -> np.ndarray:
    """The picture that a job makes."""
    answer = http.post("/api/jobs", json={**FORM, **FEW, **fields})
    assert answer.status_code == 201, answer.text
    job = until(lambda: (found := http.get(f"/api/jobs/{answer.json()['id']}").json())["state"]
                not in ("queued", "running") and found)
    assert job["state"] == "succeeded", job["error"]
    return decoded(http.get(job["artifacts"][0]["url"]).content)


# Jobs

def test_a_job_repaints_what_is_masked_and_nothing_else(http: httpx.Client, until: Until) -> None:
    picture = photo((61, 50))  # no multiple of what the model needs
    shape = {"kind": "rectangle", "units": "pixels", "x": 20, "y": 10, "width": 20, "height": 20}
    made = run(http, until, init_image=base64_of(encoded(picture)), strength=1.0,
               mask={"shapes": [shape], "blur": 0})
    kept = np.asarray(picture).copy()
    assert made.shape == kept.shape and (made[HOLE] != kept[HOLE]).any(axis=-1).mean() > 0.9
    kept[HOLE] = made[HOLE]
    assert np.array_equal(made, kept)


def test_a_job_extends_a_picture_and_another_takes_its_artifact(http: httpx.Client, until: Until) -> None:
    picture = photo()
    made = run(http, until, init_image=base64_of(encoded(picture)), outpaint={"left": 16, "bottom": 8, "overlap": 0})
    assert made.shape == (SIZE[1] + 8, SIZE[0] + 16, 3)
    assert np.array_equal(made[:SIZE[1], 16:], np.asarray(picture))
    last = http.get("/api/jobs").json()["jobs"][0]["artifacts"][0]
    more = run(http, until, init_image=f"artifact:{last['id']}", width=64, height=64, resize_mode="crop")
    assert more.shape == (64, 64, 3)


def test_a_masked_region_is_put_back_into_a_large_picture(http: httpx.Client, until: Until) -> None:
    picture = photo((300, 200))
    mask = Image.new("L", (150, 100))  # of another size: scaled
    mask.paste(255, (40, 40, 50, 50))
    made = run(http, until, init_image=base64_of(encoded(picture)), strength=1.0, mask={
        "image": base64_of(encoded(mask)), "region": "masked", "padding": 8, "blur": 2})
    changed = np.any(made != np.asarray(picture), axis=-1)
    assert made.shape == (200, 300, 3) and changed[82:98, 82:98].mean() > 0.9
    changed[72:108, 72:108] = False
    assert not changed.any()


def test_a_picture_that_was_made_from_a_picture_can_be_made_again(http: httpx.Client, until: Until) -> None:
    fields = {"init_image": base64_of(encoded(photo((61, 50)))), "strength": 0.6}
    first = run(http, until, **fields)
    job = http.get("/api/jobs").json()["jobs"][0]
    with Image.open(io.BytesIO(http.get(job["artifacts"][0]["url"]).content)) as made:
        spec = json.loads(made.text["diptych"])["spec"]  # type: ignore[attr-defined]
    assert (first.shape, spec["init_image"]) == ((50, 61, 3), job["spec"]["init_image"])
    spec = {name: value for name, value in spec.items() if name in JobRequest.model_fields}
    assert np.array_equal(run(http, until, **spec), first)


def test_a_mask_that_leaves_nothing_ends_the_job_with_a_reason(http: httpx.Client, until: Until) -> None:
    answer = http.post("/api/jobs", json={**FORM, **FEW, "init_image": base64_of(encoded(photo())), "mask": {
        "image": base64_of(encoded(Image.new("L", SIZE)))}})
    job = until(lambda: (found := http.get(f"/api/jobs/{answer.json()['id']}").json())["state"]
                not in ("queued", "running") and found)
    assert (job["state"], job["error_status"]) == ("failed", 400) and "mask is empty" in job["error"]


# OpenAI's client

def test_an_edit_repaints_where_the_mask_is_transparent(client: openai.OpenAI) -> None:
    picture = photo()
    answer = client.images.edit(**FORM, image=encoded(picture), mask=encoded(holed(picture)), n=2,
                                response_format="b64_json", extra_body={**FEW, "mask_blur": 0})
    one, other = pictures_of(answer)
    for made in (one, other):
        kept = np.asarray(picture).copy()
        assert made.shape == kept.shape and (made[HOLE] != kept[HOLE]).any(axis=-1).mean() > 0.9
        kept[HOLE] = made[HOLE]
        assert np.array_equal(made, kept)
    assert not np.array_equal(one, other)
    assert answer.size == f"{SIZE[0]}x{SIZE[1]}"


def test_without_a_mask_the_pictures_own_transparency_counts(client: openai.OpenAI) -> None:
    picture = photo()
    made, = pictures_of(client.images.edit(**FORM, image=("a.png", encoded(holed(picture)), "image/png"),
                                           response_format="b64_json", extra_body={**FEW, "mask_blur": 0}))
    kept = np.asarray(picture).copy()
    kept[HOLE] = made[HOLE]
    assert np.array_equal(made, kept)


def test_an_opaque_picture_is_changed_as_a_whole(client: openai.OpenAI) -> None:
    answer = client.images.edit(**FORM, image=io.BytesIO(encoded(photo(), "JPEG")), size="64x64", extra_body=FEW)
    assert answer.data is not None and answer.data[0].url is not None
    made = decoded(httpx.get(answer.data[0].url).content)
    assert made.shape == (64, 64, 3)


def test_an_edit_is_streamed(client: openai.OpenAI) -> None:
    events = list(client.images.edit(**FORM, image=encoded(photo()), stream=True, partial_images=1,
                                     extra_body={**FEW, "steps": 6}))
    kinds = [event.type for event in events]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]
    assert decoded(base64.b64decode(events[-1].b64_json)).shape == (SIZE[1], SIZE[0], 3)


def test_variations_of_our_own_picture_have_its_prompt(
    client: openai.OpenAI, http: httpx.Client, until: Until,
) -> None:
    made = client.images.generate(model="tiny", prompt="a (red:1.2) apple", size="64x64", response_format="b64_json",
                                  extra_body=FEW)
    assert made.data is not None
    raw = base64.b64decode(made.data[0].b64_json or "")
    answer = client.images.create_variation(model="tiny", image=raw, n=2, response_format="b64_json",
                                            extra_body={"steps": 3})
    one, other = pictures_of(answer)
    assert one.shape == other.shape == (64, 64, 3) and not np.array_equal(one, other)
    spec = http.get("/api/jobs").json()["jobs"][0]["spec"]
    assert (spec["prompt"], spec["strength"], spec["count"]) == ("a (red:1.2) apple", 0.6, 2)
    client.images.create_variation(model="tiny", image=encoded(photo()), extra_body=FEW)
    assert http.get("/api/jobs").json()["jobs"][0]["spec"]["prompt"].strip() == ""


# What is refused

def refused(http: httpx.Client, path: str, *, files: Any, **data: Any) -> tuple[int, str | None, str | None]:
    before = http.get("/api/jobs").json()["jobs"]
    answer = http.post(path, data={**FORM, "steps": "1", **data}, files=files)
    assert answer.status_code >= 400, answer.text
    assert len(http.get("/api/jobs").json()["jobs"]) == len(before)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(("raw", "status", "code"), [pytest.param(*rest, id=name) for name, *rest in BAD_FILES])
@pytest.mark.parametrize(("path", "field"), [(EDITS, "image"), (EDITS, "mask"), (VARIATIONS, "image")],
                         ids=["edit", "mask", "variation"])
def test_no_endpoint_takes_what_is_no_picture(
    http: httpx.Client, path: str, field: str, raw: bytes, status: int, code: str,
) -> None:
    files = {"image": ("a.png", encoded(photo())), field: ("b.png", raw)}
    found = refused(http, path, files=files)
    assert found == ((413, "body_too_large", "body") if len(raw) > BODY_LIMIT - 5000 else (status, code, field))


PICTURE = ("a.png", encoded(photo()))


@pytest.mark.parametrize(("data", "files", "param"), [
    ({}, {}, "Content-Type"), ({}, {"mask": PICTURE}, "image"), ({"image": "text"}, {"mask": PICTURE}, "image"),
    ({"prompt": ""}, {"image": PICTURE}, "prompt"), ({"n": "0"}, {"image": PICTURE}, "n"),
    ({"n": "two"}, {"image": PICTURE}, "n"), ({"size": "63x64"}, {"image": PICTURE}, "size"),
    ({"size": "large"}, {"image": PICTURE}, "size"), ({"strength": "1.1"}, {"image": PICTURE}, "strength"),
    ({"strength": "nan"}, {"image": PICTURE}, "strength"), ({"strength": "0.1"}, {"image": PICTURE}, "strength"),
    ({"response_format": "gif"}, {"image": PICTURE}, "response_format"),
    ({"background": "transparent"}, {"image": PICTURE}, "background"),
    ({"output_format": "webp"}, {"image": PICTURE}, "output_format"),
    ({"partial_images": "2"}, {"image": PICTURE}, "partial_images"),
    ({}, {"image": PICTURE, "mask": PICTURE}, "mask"),
    ({}, [("image[]", PICTURE), ("image[]", PICTURE)], "image"),
    ({}, [("image", PICTURE), ("mask", PICTURE), ("mask", PICTURE)], "mask"),
    ({}, {"image": PICTURE, "n": PICTURE}, "n"), ({"prompt": ["a", "b"]}, {"image": PICTURE}, "prompt"),
    ({"prompt": "a\0b"}, {"image": PICTURE}, "prompt"), ({"prompt": "x" * 20_001}, {"image": PICTURE}, "prompt"),
    ({"mask_region": "half"}, {"image": PICTURE}, "mask_region"), ({"styles": "nothing"}, {"image": PICTURE}, "styles"),
    ({"model": "nothing"}, {"image": PICTURE}, "model"), ({"model": "starter-text"}, {"image": PICTURE}, "model"),
], ids=lambda value: None if isinstance(value, str) else "+".join(value) if isinstance(value, dict) else "several")
def test_a_form_that_cannot_be_is_refused_by_name(
    http: httpx.Client, data: dict[str, Any], files: Any, param: str,
) -> None:
    status, _, told = refused(http, EDITS, files=files, **data)
    assert (told, status) == (param, {"Content-Type": 415}.get(param, 404 if data.get("model") == "nothing" else 400))


@pytest.mark.parametrize(("body", "kind", "status"), [
    (b"", "multipart/form-data", 400), (b"", "multipart/form-data; boundary=x", 400), (b"{}", "application/json", 415),
    (b"--x\r\n", "multipart/form-data; boundary=x", 400), (b"a=b", "application/x-www-form-urlencoded", 415),
    (b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--", "multipart/form-data; boundary=x", 400),
    (bytes(BODY_LIMIT + 1), "multipart/form-data; boundary=x", 413),
], ids=["no-boundary", "empty", "json", "cut", "urlencoded", "no-name", "large"])
@pytest.mark.parametrize("path", [EDITS, VARIATIONS])
def test_a_body_that_is_no_form_is_refused(http: httpx.Client, path: str, body: bytes, kind: str, status: int) -> None:
    answer = http.post(path, content=body, headers={"content-type": kind})
    assert answer.status_code == status and answer.json()["error"]["message"]


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw, *_ in GOOD_FILES
                                 if name in ("cmyk", "gray16", "palette", "turned", "gif", "one-pixel")])
def test_pictures_of_every_kind_are_edited(client: openai.OpenAI, raw: bytes) -> None:
    made, = pictures_of(client.images.edit(**FORM, image=raw, response_format="b64_json", extra_body=FEW))
    assert made.ndim == 3


# The command

def test_the_command_uploads_its_files(canvas_server: Server, tmp_path: Path) -> None:
    picture = photo()
    (tmp_path / "a.png").write_bytes(encoded(picture))
    done = subprocess.run(
        [sys.executable, "-m", "diptych", "image", "x", "--server", canvas_server.url, "--model", "tiny", "--steps",
         "2", "--init", "a.png", "--strength", "1", "--mask-shape", "rect:20,10,20,20", "--mask-pixels",
         "--mask-blur", "0", "-o", "out.png"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    made, kept = decoded((tmp_path / "out.png").read_bytes()), np.asarray(picture).copy()
    kept[HOLE] = made[HOLE]
    assert np.array_equal(made, kept)
