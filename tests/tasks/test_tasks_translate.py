"""Translation over HTTP: shapes; the starter model's French is poor."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from test_tasks_vectors import refused

from diptych.text.translate import translation

PATH = "/api/translate"
GOOD = {"text": "Good morning!", "target": "French"}
BAD: list[tuple[Any, ...]] = [
    ("text", ""), ("text", []), ("text", 5), ("text", ["a", ""], "text[1]"), ("text", ["a"] * 65), ("target", ""),
    ("target", "a\nb"), ("source", ""), ("glossary", {"a": 5}, "glossary.a"), ("glossary", {"": "b"}),
    ("stream", "yes"),
    ("model", "nothing", "model", 404), ("model", "starter"), ("unheard_of", 1), ("keep_formatting", 1),
]


@pytest.mark.parametrize(("field", "value", "rest"), [(*one[:2], one[2:]) for one in BAD])
def test_refusals(http: httpx.Client, field: str, value: Any, rest: tuple[Any, ...]) -> None:
    refused(http, PATH, {**GOOD, field: value}, rest, field)


def test_whole_and_streamed(http: httpx.Client) -> None:
    body = {**GOOD, "text": ["Good morning!", "The cat."], "glossary": {"cat": "chat"}}
    whole = http.post(PATH, json=body).json()
    assert [one["index"] for one in whole["translations"]] == [0, 1]
    assert all(one["text"] for one in whole["translations"])
    lines = http.post(PATH, json={**body, "stream": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert events[-1]["type"] == "finished" and len(events[-1]["translations"]) == 2
    pieces = "".join(event["text"] for event in events if event["type"] == "delta" and event["index"] == 1)
    assert pieces.strip("\n") == events[-1]["translations"][1]["text"]


def test_what_the_model_is_told() -> None:
    spec = translation("m", "A Cat.", None, "French", {"cat": "chat", "dog": "chien"}, True)
    told = spec.messages[0].text
    assert "cat: chat" in told and "chien" not in told and "Markdown" in told
    assert "Markdown" not in translation("m", "a", "German", "French", {}, False).messages[0].text
