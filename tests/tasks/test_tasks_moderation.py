"""Moderation over HTTP, with the starter model."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral
from PIL import Image
from test_tasks_vectors import refused

from diptych.text.moderate import CATEGORIES
from diptych.text.moderate_pictures import PictureJudge

TEXTS, CHATS = "/v1/moderations", "/v1/chat/moderations"
PIXEL = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
         "awAAAABJRU5ErkJggg==")
THREAT = "I will kill you and your family with a knife."
BAD: list[tuple[Any, ...]] = [
    (TEXTS, {}, "input"), (TEXTS, {"input": ""}, "input"), (TEXTS, {"input": []}, "input"),
    (TEXTS, {"input": 5}, "input"),
    (TEXTS, {"input": ["a", 5]}, "input[1]"), (TEXTS, {"input": [{"type": "audio"}]}, "input[0].type"),
    (TEXTS, {"input": [{"type": "text"}]}, "input[0].text"), (TEXTS, {"input": "a", "threshold": 2}, "threshold"),
    (TEXTS, {"input": "a", "model": "nothing"}, "model", 404), (TEXTS, {"input": "a", "model": "starter"}, "model"),
    (TEXTS, {"input": "word " * 2000}, "input"), (TEXTS, {"input": "a", "inputs": "b"}, "inputs"),
    (CHATS, {"input": "a"}, "input"), (CHATS, {"input": []}, "input"), (CHATS, {"input": [[]]}, "input[0]"),
    (CHATS, {"input": [{"role": "user"}]}, "input[0].content"),
]


@pytest.mark.parametrize(("path", "body", "rest"), [(one[0], one[1], one[2:]) for one in BAD],
                         ids=[f"{one[0]}-{str(one[1])[:40]}" for one in BAD])
def test_refusals(http: httpx.Client, path: str, body: dict[str, Any], rest: tuple[Any, ...]) -> None:
    refused(http, path, body, rest, "")


def test_openais_client(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        made = client.moderations.create(model="starter-text", input=[THREAT, "What is the capital of Italy?"])
    bad, good = made.results
    scores = bad.category_scores.model_dump(by_alias=True)
    assert set(scores) == set(CATEGORIES) and all(0 <= score <= 1 for score in scores.values())
    assert bad.flagged and bad.categories.violence and scores["violence"] > 0.8
    assert not good.flagged and good.category_applied_input_types.violence == ["text"]


def test_threshold_and_conversations(http: httpx.Client, url: str) -> None:
    assert http.post(TEXTS, json={"input": THREAT, "threshold": 1.0}).json()["results"][0]["flagged"] is False
    talk: Any = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": THREAT}]
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        made = client.classifiers.moderate_chat(model="starter-text", inputs=talk)
    assert made.results[0].categories is not None and made.results[0].categories["violence"]


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is not None, reason="the package nudenet is installed")
def test_pictures_without_their_package(http: httpx.Client) -> None:
    answer = http.post(TEXTS, json={"input": [{"type": "image_url", "image_url": {"url": PIXEL}}]})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "not_installed"
    assert "nudenet" in answer.json()["error"]["message"]


NUDENET = pytest.mark.skipif(
    importlib.util.find_spec("nudenet") is None, reason="the package nudenet is not installed")
DRAWN = Path(__file__).resolve().parents[2] / "starter" / "samples.png"


def encoded(image: Image.Image, kind: str, **more: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def looked_at(http: httpx.Client, *urls: str) -> httpx.Response:
    return http.post(TEXTS, json={"input": [{"type": "image_url", "image_url": {"url": url}} for url in urls]})


@NUDENET
def test_pictures(http: httpx.Client) -> None:
    """Every format and kind of pixels, and sizes that a detector of squares could break at; the answer is stable."""
    with Image.open(DRAWN) as opened:
        drawn = opened.convert("RGB").resize((320, 200))
    noise = Image.effect_noise((300, 200), 80)
    pictures = [
        *(encoded(drawn, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")), PIXEL,
        *(encoded(noise.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        encoded(drawn.convert("CMYK"), "JPEG"), encoded(drawn.resize((20_000, 1)), "PNG"),
        encoded(drawn.resize((1, 20_000)), "PNG"),
        encoded(noise, "GIF", save_all=True, append_images=[drawn.convert("L")]),
    ]
    for url in pictures:
        answer = looked_at(http, url)
        assert answer.status_code == 200, (answer.text, url[:60])
        result = answer.json()["results"][0]
        assert 0 <= result["category_scores"]["sexual"] < 0.5 and not result["flagged"]
        assert result["category_applied_input_types"]["sexual"] == ["image"]
    again = [looked_at(http, pictures[0]).json()["results"][0]["category_scores"] for _ in range(2)]
    assert again[0] == again[1]
    both = http.post(TEXTS, json={"input": [{"type": "text", "text": THREAT},
                                            {"type": "image_url", "image_url": {"url": PIXEL}}]}).json()["results"][0]
    assert both["flagged"] and both["category_applied_input_types"]["sexual"] == ["text", "image"]


@NUDENET
@pytest.mark.parametrize(("address", "status"), [
    ("data:image/png;base64,AAAA", 400), ("data:image/png;base64,%%%", 400), (PIXEL[:80], 400), ("", 400),
    ("http://127.0.0.1:1/a.png", 403), ("file:///etc/passwd", 400), ("data:text/html,hello", 400)])
def test_pictures_that_are_none(http: httpx.Client, address: str, status: int) -> None:
    answer = looked_at(http, address)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"].startswith("input[0].image_url")


@NUDENET
def test_what_the_detector_finds_is_the_score() -> None:
    """Its real model, and findings as it tells them, in pictures that it cannot be shown here."""
    judge = PictureJudge()
    file = io.BytesIO()
    Image.new("RGBA", (40, 30), (200, 150, 120, 128)).save(file, "PNG")
    assert judge.scores([file.getvalue()] * 2) == [{"sexual": 0.0}] * 2
    scores = {"FACE_FEMALE": 0.9, "BELLY_EXPOSED": 0.8, "BUTTOCKS_EXPOSED": 0.6, "ANUS_EXPOSED": 0.3}
    found = [{"class": name, "score": score, "box": [1, 2, 3, 4]} for name, score in scores.items()]
    shapes = []

    class Finding:
        def detect(self, pixels: Any) -> list[dict[str, Any]]:
            shapes.append(pixels.shape)
            return found

    judge._detector._model = Finding()
    assert judge.scores([file.getvalue()]) == [{"sexual": 0.6}]
    assert shapes == [(30, 40, 3), (30, 40, 3)]  # with and without its transparency
    found[:] = found[:2]
    assert judge.scores([file.getvalue()]) == [{"sexual": 0.0}]
