"""Finishing, captions and marks through a real server: what works, and what is refused by name."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny_hf
from PIL import Image

from api_server import Server

BOX = {"x": 0.1, "y": 0.1, "width": 0.5, "height": 0.5}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("finish")
    (folder / "models").mkdir()
    (folder / "models" / "tiny-mistral3").symlink_to(tiny_hf.mistral3())
    server = Server(folder)
    try:
        server.wait(120)
        with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.stop()


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> str:
    pixels = np.random.default_rng(1).integers(0, 256, (*reversed(size), len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_job_from_upload_to_mark(api: httpx.Client) -> None:
    asked = api.post("/api/finish", json={"image": picture("RGBA", (50, 40)), "seed": 3, "finish": [
        {"kind": "upscale", "factor": 2.0}, {"kind": "invisible", "payload": "mine"}]})
    assert asked.status_code == 201, asked.text
    job = asked.json()
    assert job["spec"]["kind"] == "finish" and job["spec"]["image"].startswith("sha256:")
    with api.stream("GET", f"/api/jobs/{job['id']}/events") as events:
        told = events.read().decode()
    assert "event: progress" in told and "event: finished" in told
    (artifact,) = api.get(f"/api/jobs/{job['id']}").json()["artifacts"]
    made = Image.open(io.BytesIO(api.get(artifact["url"]).content))
    assert (made.size, made.mode) == ((100, 80), "RGBA")
    found = api.post("/api/watermark", json={"image": f"artifact:{artifact['id']}"})
    assert found.json() == {"found": True, "payload": "mine"}
    assert api.post("/api/watermark", json={"image": picture()}).json() == {"found": False, "payload": None}


@pytest.mark.parametrize(("values", "status", "param"), [
    ({"image": "!!!"}, 400, "image"),
    ({"image": "sha256:" + "0" * 64}, 404, "image"),
    ({"image": "artifact:" + "0" * 32 + "-0"}, 404, "image"),
    ({"finish": []}, 400, "finish"),
    ({"finish": [{"kind": "upscale", "model": "nope"}]}, 404, "finish[0].model"),
    ({"finish": [{"kind": "upscale", "model": "../../etc/passwd"}]}, 404, "finish[0].model"),
    ({"finish": [{"kind": "upscale", "factor": 17.0}]}, 400, "finish[0].upscale.factor"),
    ({"finish": [{"kind": "background", "model": "u2net"}]}, 404, "finish[0].model"),
    ({"finish": [{"kind": "detail", "boxes": [BOX]}]}, 400, "finish[0].prompt"),
    ({"finish": [{"kind": "watermark", "picture": "%%%"}]}, 400, "finish[0].picture"),
    ({"finish": [{"kind": "sharpen"}]}, 400, "finish[0]"),
    ({"finish": [{"kind": "upscale"}] * 9}, 400, "finish"),
    ({"nsfw": "maybe"}, 400, "nsfw"), ({"model": "nope"}, 404, "model"), ({"denoise": 1}, 400, "denoise")])
def test_what_is_refused(api: httpx.Client, values: dict[str, Any], status: int, param: str) -> None:
    body = {"image": picture(), "finish": [{"kind": "upscale"}], **values}
    answer = api.post("/api/finish", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_language_model_that_sees_describes(api: httpx.Client) -> None:
    """Of random weights: what it says means nothing, but it is its answer to the picture and the question."""
    asked = {"image": picture(), "model": "tiny-mistral3", "seed": 5}
    told = api.post("/api/interrogate", json=asked).json()
    assert told["model"] == "tiny-mistral3" and told["captions"] == [] and told["caption"]
    assert api.post("/api/interrogate", json={**asked, "model": None}).json() == told, "it is loaded, so it is asked"
    other = api.post("/api/interrogate", json={**asked, "image": picture(size=(56, 56))}).json()
    assert other["caption"] != told["caption"]


@pytest.mark.parametrize(("values", "status", "param"), [
    ({"image": "!!!"}, 400, "image"), ({"model": "nope"}, 404, "model"), ({"samples": 0}, 400, "samples"),
    ({"vocabulary": [""]}, 400, "vocabulary[0]"), ({"top": "3"}, 400, "top")])
def test_what_cannot_be_asked(api: httpx.Client, values: dict[str, Any], status: int, param: str) -> None:
    answer = api.post("/api/interrogate", json={"image": picture(), **values})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_captions(api: httpx.Client) -> None:
    starter = Image.open(Path(__file__).parents[2] / "starter" / "samples.png").convert("RGB")
    buffer = io.BytesIO()
    starter.crop((0, 0, 128, 128)).save(buffer, "PNG")
    answer = api.post("/api/interrogate", json={
        "image": base64.b64encode(buffer.getvalue()).decode(), "vocabulary": ["a cat", "a taxi", "a key"], "samples": 2,
        "top": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["model"] == "starter" and len(found["captions"]) == 2
    assert found["caption"] == found["captions"][0]["caption"]
