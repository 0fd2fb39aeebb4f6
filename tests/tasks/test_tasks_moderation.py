"""Moderation over HTTP, with the starter model."""

from __future__ import annotations

import importlib.util
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral
from test_tasks_vectors import refused

from diptych.text.moderate import CATEGORIES

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


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is None, reason="the package nudenet is not installed")
def test_pictures(http: httpx.Client) -> None:
    result = http.post(TEXTS, json={"input": [{"type": "image_url", "image_url": {"url": PIXEL}}]}).json()["results"][0]
    assert result["category_scores"]["sexual"] < 0.5 and result["category_applied_input_types"]["sexual"] == ["image"]
