"""The prompt language over `/api/jobs` and `/v1/images/generations`: what is kept, and what is refused by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

SMALL = {"model": "tiny", "width": 64, "height": 64, "steps": 2}
Until = Callable[[Callable[[], Any]], Any]


def submit(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/api/jobs", json={**SMALL, **fields})


def test_the_record_keeps_what_was_asked_and_what_was_drawn(http: httpx.Client, until: Until) -> None:
    asked = "a {red|green|blue|grey|white} (cat:1.2)"
    made = submit(http, prompt=asked, count=3, seed=7).raise_for_status().json()
    drawn = [one["prompt"] for one in made["spec"]["resolved"]]
    assert made["spec"]["prompt"] == asked
    assert len(drawn) == 3
    assert all(text.startswith("a ") and text.endswith(" (cat:1.2)") and "{" not in text for text in drawn)
    assert submit(http, prompt=asked, count=1, seed=9).json()["spec"]["resolved"][0]["prompt"] == drawn[2]
    assert submit(http, prompt="a (cat:1.2)").json()["spec"]["resolved"] == []
    done = until(lambda: (found := http.get(f"/api/jobs/{made['id']}").json())["state"] == "succeeded" and found)
    picture = Image.open(io.BytesIO(http.get(done["artifacts"][1]["url"]).content))
    picture.load()
    text = picture.text  # type: ignore[attr-defined]
    assert text["parameters"].startswith(drawn[1] + "\n")
    assert f"Template: {asked}" in text["parameters"].replace('"', "")
    spec = json.loads(text["diptych"])["spec"]
    assert (spec["prompt"], spec["resolved"]) == (asked, [{"prompt": drawn[1], "negative_prompt": ""}])


@pytest.mark.parametrize(("fields", "param", "words"), [
    ({"prompt": "a <lora:nice:0.8> cat"}, "prompt", "<lora:nice>"),
    ({"prompt": "a", "negative_prompt": "<lyco:x:1>"}, "negative_prompt", "<lyco:x>"),
    ({"prompt": "a __nowhere__ cat"}, "prompt", "nowhere"),
    ({"prompt": "__../../etc/passwd__"}, "prompt", "names no file"),
    ({"prompt": "a", "styles": ["nobody's"]}, "styles", "nobody's"),
    ({"prompt": "a", "styles": "x"}, "styles", "list"),
    ({"prompt": "a", "clip_skip": 0}, "clip_skip", "1"),
    ({"prompt": "a", "prompt_syntax": "comfy"}, "prompt_syntax", "plain"),
    ({"prompt": " AND ".join("abcdefghi")}, "prompt", "9 parts"),
    ({"prompt": "a", "resolved": []}, "resolved", ""),
])
def test_refusals(http: httpx.Client, fields: dict[str, Any], param: str, words: str) -> None:
    answer = submit(http, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("prompt", ["((((", "]})", "[a:b:", "{2$$", "\\", "AND", "BREAK", "(a:1e400)", "__"])
def test_odd_texts_are_taken(http: httpx.Client, prompt: str) -> None:
    answer = submit(http, prompt=prompt)
    assert answer.status_code == 201, answer.text
    http.post(f"/api/jobs/{answer.json()['id']}/cancel")


def test_plain_words_and_openais_route(http: httpx.Client) -> None:
    made = submit(http, prompt="{a|b} <lora:x:1> __y__", prompt_syntax="plain").raise_for_status().json()
    assert made["spec"]["resolved"] == []
    refused = http.post("/v1/images/generations", json={"model": "tiny", "prompt": "a <lora:x:1>"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


def test_styles_and_wildcards_of_the_data_folder(http: httpx.Client, server: Any) -> None:
    data_dir = server.data_dir
    (data_dir / "wildcards").mkdir(exist_ok=True)
    (data_dir / "wildcards" / "kind.txt").write_text("cat\n")
    (data_dir / "styles.json").write_text('{"bold": {"prompt": "bold {prompt}", "negative_prompt": "thin"}}')
    made = submit(http, prompt="a __kind__", styles=["bold"]).raise_for_status().json()
    assert made["spec"]["resolved"] == [{"prompt": "bold a cat", "negative_prompt": "thin"}]
    assert made["spec"]["styles"] == ["bold"]
