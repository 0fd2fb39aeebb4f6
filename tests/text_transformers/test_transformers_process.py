"""A folder of a model behind the whole server: chat, forms, calls, vectors, and clients that go away."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[1] / "upstream"))

import tiny_hf
from servers import Served

SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"],
          "additionalProperties": False}


@pytest.fixture(scope="module", params=[tiny_hf.llama, tiny_hf.mistral], ids=["llama", "mistral"])
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    data = tmp_path_factory.mktemp("served") / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / "tiny").symlink_to(request.param())
    served = Served(data, text_slots=2)
    served.wait()
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client
    served.stop()


def body(**more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 200,
            "temperature": 1.0, "seed": 3, **more}


def test_forms_and_calls_hold(http: httpx.Client) -> None:
    """With random weights: only the grammar can be why it is valid."""
    asked = body(response_format={"type": "json_schema", "json_schema": {
        "name": "colour", "strict": True, "schema": SCHEMA}})
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["choices"][0]["message"]["content"])["colour"] in ("red", "blue")
    asked = body(tool_choice="required", tools=[{"type": "function", "function": {
        "name": "paint", "parameters": SCHEMA}}])
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "paint" and json.loads(call["arguments"])["colour"] in ("red", "blue")


def test_vectors(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b c"]})
    assert answer.status_code == 200, answer.text
    assert [len(item["embedding"]) for item in answer.json()["data"]] == [64, 64]
    assert answer.json()["usage"]["prompt_tokens"] > 0


def test_clients_that_go_free_their_places(http: httpx.Client) -> None:
    """More than there are slots leave in the middle of long answers; one that stays is answered soon."""
    def leave() -> None:
        asked = body(stream=True, max_tokens=3500, repetition_stop=False, logit_bias={"2": -100})
        with http.stream("POST", "/v1/chat/completions", json=asked) as response:
            next(response.iter_lines())

    threads = [threading.Thread(target=leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    began = time.monotonic()
    assert http.post("/v1/chat/completions", json=body(max_tokens=3)).status_code == 200
    assert time.monotonic() - began < 20
