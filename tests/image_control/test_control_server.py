"""Control through the server: jobs, previews, refusals, the command line."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tiny_controls
import tiny_onnx
from PIL import Image

from api_server import Server, served
from diptych.cli.control_options import unit_of
from diptych.cli.errors import CliError
from diptych.core.preprocessors import PREPROCESSORS


@pytest.fixture(scope="module")
def server(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("served") / "data"
    models = data / "models"
    models.mkdir(parents=True)
    for name in ("base", "edges", "adapter", "image_encoder", "prompt.safetensors"):
        (models / name).symlink_to(parts / name)
    with served(data, warm_spare=False) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


DISC = sent(tiny_controls.drawing("disc"))
JOB: dict[str, Any] = {"model": "base", "prompt": "a red cat", "steps": 2, "seed": 3, "width": 32, "height": 32}


def painted(http: httpx.Client, until: Callable[..., Any], **fields: Any) -> np.ndarray:
    answer = http.post("/api/jobs", json={**JOB, **fields})
    assert answer.status_code == 201, answer.text
    id = answer.json()["id"]
    job = until(lambda: (found := http.get(f"/api/jobs/{id}").json())["state"] in ("succeeded", "failed") and found)
    assert job["state"] == "succeeded", job
    return np.asarray(Image.open(io.BytesIO(http.get(job["artifacts"][0]["url"]).content)).convert("RGB"))


def test_jobs_with_units_of_all_kinds(http: httpx.Client, until: Callable[..., Any]) -> None:
    plain = painted(http, until)
    for unit in ({"model": "edges"}, {"model": "adapter", "kind": "t2i_adapter"},
                 {"model": "edges", "preprocessor": "canny", "control_mode": "control", "end": 0.5},
                 {"model": "prompt", "kind": "ip_adapter"}):
        found = painted(http, until, controls=[{"image": DISC, **unit}])
        assert np.abs(found.astype(int) - plain).max() > 4, unit


BAD: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "unknown-model": ({"model": "nothing"}, 404, "controls[0].model", "nothing"),
    "kind-of-another-part": ({"model": "adapter"}, 404, "controls[0].model", "there are: edges"),
    "no-image": ({"image": None}, 400, "controls[0].image", "string"),
    "damaged-image": ({"image": "aGVsbG8="}, 400, "controls[0].image", "picture"),
    "end-before-start": ({"start": 0.5, "end": 0.1}, 400, "controls[0]", "start is 0.5, not before end, 0.1"),
    "unknown-preprocessor": ({"preprocessor": "cany"}, 400, "controls[0].preprocessor", "known: none, canny"),
    "missing-file": ({"preprocessor": "openpose"}, 404, "controls[0].preprocessor", "dwpose.onnx"),
    "threshold": ({"preprocessor": "canny", "threshold_a": 900}, 400, "controls[0]", "1 to 255"),
    "unknown-field": ({"strength": 1}, 400, "controls[0].strength", "no field"),
    "no-object": ({"weight": "much"}, 400, "controls[0].weight", "number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_units(http: httpx.Client, case: str) -> None:
    fields, status, param, words = BAD[case]
    answer = http.post("/api/jobs", json={**JOB, "controls": [{"model": "edges", "image": DISC, **fields}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert words in error["message"]


def test_too_many_units(http: httpx.Client) -> None:
    answer = http.post("/api/jobs", json={**JOB, "controls": [{"model": "edges", "image": DISC}] * 9})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "controls"


def test_a_preview_is_the_map(http: httpx.Client) -> None:
    answer = http.post("/api/control/preprocess", json={"image": DISC, "preprocessor": "canny", "threshold_a": 50})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    wanted = cv2.Canny(cv2.cvtColor(np.asarray(tiny_controls.drawing("disc")), cv2.COLOR_RGB2GRAY), 50, 200)
    assert (found == wanted[:, :, None]).all()
    larger = http.post("/api/control/preprocess", json={"image": DISC, "width": 64, "height": 48})
    assert Image.open(io.BytesIO(larger.content)).size == (64, 48)


@pytest.mark.parametrize(("fields", "status", "words"), [
    ({"preprocessor": "depth"}, 404, "depth.onnx"), ({"preprocessor": "x"}, 400, "known: none"),
    ({"processor_res": 8}, 400, "16"), ({"image": "artifact:none"}, 404, "artifact"), ({"width": 5000}, 400, "4096"),
    ({"preprocessor": 3}, 400, "preprocessor"),
], ids=["file", "name", "resolution", "picture", "width", "number"])
def test_bad_previews(http: httpx.Client, fields: dict[str, Any], status: int, words: str) -> None:
    answer = http.post("/api/control/preprocess", json={"image": DISC, **fields})
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_preprocessors_are_listed_and_a_file_makes_one_ready(http: httpx.Client, server: Server) -> None:
    def ready() -> dict[str, bool]:
        return {one["name"]: one["ready"] for one in http.get("/api/control/preprocessors").json()}

    assert ready() == {name: not traits.files for name, traits in PREPROCESSORS.items()}
    tiny_onnx.mean_model(server.data_dir / "models" / "preprocessors" / "depth.onnx")
    assert {name for name, there in ready().items() if there} >= {"depth", "normal", "canny"}
    answer = http.post("/api/control/preprocess", json={"image": DISC, "preprocessor": "depth_midas"})
    assert answer.status_code == 200


def test_the_command_line(server: Server, tmp_path: Path) -> None:
    tiny_controls.drawing("box").save(tmp_path / "box.png")
    command = [sys.executable, "-m", "diptych", "image", "a red cat", "--model", "base", "--steps", "2", "--seed", "3",
               "--size", "32x32", "-o", str(tmp_path / "made.png"), "--server", server.url]
    unit = f"model=edges,image={tmp_path / 'box.png'},preprocessor=canny,weight=0.8,pixel_perfect=yes"
    done = subprocess.run([*command, "--control", unit], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "made.png").size == (32, 32)


@pytest.mark.parametrize(("text", "words"), [
    ("model=edges", "image=… is missing"), ("image=x", "model=… is missing"), ("edges", "no FIELD=VALUE"),
    ("model=a,image=b,weight=much", "weight is 'much', not a number"), ("model=a,image=b,strength=1", "strength"),
    ("model=a,image=b,processor_res=1.5", "not a whole number"), ("model=a,image=b,pixel_perfect=5", "not yes or no"),
], ids=["no-image", "no-model", "no-fields", "number", "unknown", "whole", "flag"])
def test_what_the_command_line_refuses(text: str, words: str) -> None:
    with pytest.raises(CliError, match=words):
        unit_of(text)


def test_the_command_line_reads_units() -> None:
    found = unit_of("model=a, image=x,,y.png,weight=.5,pixel_perfect=no,processor_res=64,end=1")
    assert found == {"model": "a", "image": "x,y.png", "weight": 0.5, "pixel_perfect": False, "processor_res": 64,
                     "end": 1.0}
