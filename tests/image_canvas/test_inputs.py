"""The store of pictures, its route, and what picture fields of requests take: good and bad."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from canvas_pictures import (
    BAD_FILES,
    BODY_LIMIT,
    GOOD_FILES,
    PICTURE_LIMIT,
    SIZE,
    base64_of,
    decoded,
    encoded,
    gray16,
    photo,
)
from PIL import Image

from api_server import Server
from diptych.api.auth import Principal
from diptych.api.native.inputs import InputPictures
from diptych.core.errors import NotFound, Unavailable
from diptych.core.jobs import Priority
from diptych.core.picture_refs import with_ids
from diptych.core.specs import ImageSpec
from diptych.settings import Settings
from diptych.store.inputs import InputStore
from diptych.store.jobs import JobStore

GOOD = [pytest.param(*rest, id=name) for name, *rest in GOOD_FILES]
BAD = [pytest.param(*rest, id=name) for name, *rest in BAD_FILES]
JOB: dict[str, Any] = {"model": "tiny", "prompt": "x", "steps": 2}
ID = "sha256:" + "0" * 64


def upload(http: httpx.Client, raw: bytes, kind: str = "image/png") -> httpx.Response:
    return http.post("/api/inputs", content=raw, headers={"content-type": kind})


def fault(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert len(found["message"]) < 500
    return found


# The store

def test_the_same_picture_is_the_same_file_without_metadata(tmp_path: Path) -> None:
    store = InputStore(tmp_path / "inputs")
    picture = photo()
    first = store.put(picture)
    picture.info["secret"] = "where it was taken"
    assert store.put(picture) == first and (first.width, first.height, first.mode) == (*SIZE, "RGB")
    path = store.path(first.id)
    with Image.open(path) as found:
        assert not found.info and np.array_equal(np.asarray(found), np.asarray(picture))
    assert [file.name for file in (tmp_path / "inputs").rglob("*") if file.is_file()] == [path.name]
    path.write_bytes(b"cut off")  # as a full disk may leave it
    store.put(picture)
    assert np.array_equal(decoded(path.read_bytes()), np.asarray(picture))


@pytest.mark.parametrize("id", ["", "sha256:", "sha256:../../etc/passwd", ID, ID + "0", "0" * 64, "artifact:x"])
def test_other_ids_are_not_found(tmp_path: Path, id: str) -> None:
    with pytest.raises(NotFound) as told:
        InputStore(tmp_path).path(id, param="mask.image")
    assert told.value.param == "mask.image"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be stored"):
        InputStore(tmp_path / "file").put(photo())


def test_every_picture_field_is_found_at_any_depth() -> None:
    spec = ImageSpec.model_validate({
        "prompt": "x", "init_image": ID, "mask": {"image": ID}, "styles": ["a"],
        **({"controls": [{"model": "m", "image": ID}, {"model": "m", "image": ID}]}
           if "controls" in ImageSpec.model_fields else {})})
    seen: list[str] = []
    values = with_ids(spec, lambda text, param: seen.append(param) or ID.replace("0", "1"))  # type: ignore[func-returns-value]
    assert {"init_image", "mask.image"} <= set(seen)
    changed = ImageSpec.model_validate(values)
    assert changed.init_image == ID.replace("0", "1") and changed.mask is not None
    assert changed.mask.image == ID.replace("0", "1")
    assert {reference.id for reference in changed.references() if reference.kind == "input"} == {ID.replace("0", "1")}


# The route

@pytest.mark.parametrize(("raw", "size", "mode"), GOOD)
def test_pictures_of_every_kind_are_stored_upright(
    http: httpx.Client, raw: bytes, size: tuple[int, int], mode: str,
) -> None:
    answer = upload(http, raw)
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["width"], view["height"], view["mode"]) == (*size, mode)
    assert answer.headers["location"] == view["url"] == f"/api/inputs/{view['id']}"
    file = http.get(view["url"])
    assert file.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(file.content)) as stored:
        assert (stored.size, stored.mode) == (size, mode)
    assert upload(http, file.content).json() == view


def test_16_bits_are_scaled_and_not_cut_off(http: httpx.Client) -> None:
    stored = decoded(http.get(upload(http, gray16()).json()["url"]).content)[0, :, 0].astype(int)
    assert np.abs(stored - np.linspace(0, 255, SIZE[0])).max() <= 1


@pytest.mark.parametrize(("raw", "status", "code"), BAD)
def test_what_is_no_picture_is_refused(http: httpx.Client, raw: bytes, status: int, code: str) -> None:
    answer = upload(http, raw)
    assert (answer.status_code, fault(answer)["code"], fault(answer)["param"]) == (
        status, "body_too_large" if len(raw) > PICTURE_LIMIT else code, "body")


def test_other_types_and_ids_are_refused(http: httpx.Client) -> None:
    assert upload(http, encoded(photo()), "text/plain").status_code == 415
    assert http.post("/api/inputs", content=encoded(photo()), headers={
        "content-type": "image/png", "content-encoding": "gzip"}).status_code == 415
    for id in (ID, "x", "sha256:" + "g" * 64, "..%2f..%2fdiptych.sqlite3"):
        assert http.get(f"/api/inputs/{id}").status_code == 404


# Fields of jobs

def test_a_picture_may_come_in_every_form(http: httpx.Client) -> None:
    raw = encoded(photo())
    id = upload(http, raw).json()["id"]
    text = base64.b64encode(raw).decode()
    for given in (id, text, f"data:image/png;base64,{text}"):
        answer = http.post("/api/jobs", json={**JOB, "init_image": given, "mask": {"image": id}})
        assert answer.status_code == 201, answer.text
        spec = answer.json()["spec"]
        assert spec["init_image"] == spec["mask"]["image"] == id
        http.post(f"/api/jobs/{answer.json()['id']}/cancel")


@pytest.mark.parametrize(("raw", "status", "code"), BAD)
@pytest.mark.parametrize("field", ["init_image", "mask.image"])
def test_no_job_takes_what_is_no_picture(
    http: httpx.Client, field: str, raw: bytes, status: int, code: str,
) -> None:
    good, bad = base64_of(encoded(photo())), f"data:image/png;base64,{base64_of(raw)}"
    values = {"init_image": bad} if field == "init_image" else {"init_image": good, "mask": {"image": bad}}
    before = http.get("/api/jobs").json()["jobs"]
    answer = http.post("/api/jobs", json={**JOB, **values})
    if len(answer.request.content) > BODY_LIMIT:
        assert (answer.status_code, fault(answer)["code"]) == (413, "body_too_large")
    else:
        assert (answer.status_code, fault(answer)["code"], fault(answer)["param"]) == (status, code, field)
    assert len(http.get("/api/jobs").json()["jobs"]) == len(before)


@pytest.mark.parametrize(("text", "status"), [
    ("!!", 400), ("", 400), ("data:image/png,abc", 400), ("data:", 400), ("file:///etc/passwd", 400), (ID, 404),
    ("sha256:x", 404), ("artifact:", 404), ("artifact:" + "0" * 32 + "-0", 404), ("artifact:../x", 404),
    ("http://example.org/x.png", 403), (5, 400), (None, 400), (["x"], 400),
])
def test_texts_that_name_no_picture_are_refused(http: httpx.Client, text: Any, status: int) -> None:
    good = base64_of(encoded(photo()))
    answer = http.post("/api/jobs", json={**JOB, "init_image": good, "mask": {"image": text}})
    assert answer.status_code == status, answer.text
    assert str(fault(answer)["param"]).startswith("mask")


@pytest.mark.parametrize(("values", "param"), [
    ({"strength": 2}, "strength"), ({"strength": "1"}, "strength"), ({"resize_mode": "zoom"}, "resize_mode"),
    ({"mask": {}}, "mask"), ({"mask": {"image": ID, "blur": -1}}, "mask.blur"), ({"mask": "x"}, "mask"),
    ({"mask": {"image": ID, "region": "half"}}, "mask.region"), ({"mask": {"shapes": []}}, "mask"),
    ({"mask": {"shapes": [{"kind": "circle"}]}}, "mask.shapes[0]"),
    ({"mask": {"shapes": [{"kind": "path", "d": "L 1 1"}]}}, "mask.shapes[0].path.d"),
    ({"mask": {"shapes": [{"kind": "polygon", "points": [[0, 0], [1, 1]]}]}}, "mask.shapes[0].polygon.points"),
    ({"outpaint": {}}, "outpaint"), ({"outpaint": {"left": 5000}}, "outpaint.left"),
    ({"outpaint": {"left": 8}, "mask": {"image": ID, "region": "masked"}}, "mask.region"),
    ({"outpaint": {"left": 8, "fill": "noise"}, "mask": {"image": ID}}, "outpaint.fill"),
    ({"init_image": None, "mask": {"image": ID}}, "mask"), ({"init_image": None, "outpaint": {"left": 8}}, "outpaint"),
])
def test_options_that_cannot_be_are_refused_by_name(http: httpx.Client, values: dict[str, Any], param: str) -> None:
    answer = http.post("/api/jobs", json={**JOB, "init_image": base64_of(encoded(photo())), **values})
    assert (answer.status_code, fault(answer)["param"]) == (400, param)


def test_a_body_over_the_limit_for_pictures_is_refused_and_one_below_taken(
    http: httpx.Client, canvas_server: Server,
) -> None:
    noise = encoded(Image.frombytes("RGB", (290, 290), np.random.default_rng(2).bytes(290 * 290 * 3)))
    assert len(noise) < PICTURE_LIMIT
    one = {**JOB, "init_image": base64_of(noise)}
    made = http.post("/api/jobs", json=one)
    assert made.status_code == 201
    http.post(f"/api/jobs/{made.json()['id']}/cancel")
    answer = http.post("/api/jobs", json={**one, "mask": {"image": base64_of(noise)}})
    assert (answer.status_code, fault(answer)["param"], str(BODY_LIMIT) in fault(answer)["message"]) == (
        413, "body", True)


# Whose pictures may be named

def test_only_ones_own_artifacts_can_be_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    store, inputs = JobStore(settings.url), InputStore(settings.inputs_dir)
    store.migrate()
    job = store.submit(ImageSpec(prompt="x", seed=1, width=8, height=8), caller="ann", priority=Priority.BATCH,
                       timeout_seconds=60, max_attempts=1, limit=10)
    store.claim(job.id)
    store.add_artifact(job.id, 0, f"{job.id}/000.png", attempt=1, media_type="image/png", seed=1, width=64, height=48)
    (settings.artifacts_dir / job.id).mkdir(parents=True)
    file = settings.artifacts_dir / job.id / "000.png"
    file.write_bytes(encoded(photo()))
    services: Any = SimpleNamespace(settings=settings, store=store, inputs=inputs)

    def place(who: Principal) -> str:
        return InputPictures(services, who).place(f"artifact:{job.id}-0", "init_image")

    try:
        expected = inputs.put(photo()).id
        assert place(Principal("ann", all_jobs=False)) == place(Principal("root", all_jobs=True)) == expected
        with pytest.raises(NotFound, match="no artifact of that id") as other:
            place(Principal("bob", all_jobs=False))
        file.unlink()
        with pytest.raises(NotFound, match="no artifact of that id") as gone:
            place(Principal("ann", all_jobs=False))
        assert other.value.message == gone.value.message and gone.value.param == "init_image"
    finally:
        store.close()
