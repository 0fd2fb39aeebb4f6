"""A server in front of another one: the second's model is answered through, with its counts, calls and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers import Served, free_port

MODEL = "other/starter-text"


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("back") / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / "starter-text").symlink_to(starter_text.parent)
    served = Served(data, text_context=512, text_slots=2)
    served.wait()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, back: Served) -> Iterator[httpx.Client]:
    served = Served(tmp_path_factory.mktemp("front") / "data", upstreams={
        "other": {"url": f"{back.url}/v1", "models": ["starter-text", "ghost"], "tasks": ["chat", "embed"],
                  "fields": ["top_k", "min_p", "min_tokens"]},
        "gone": {"url": f"http://127.0.0.1:{free_port()}/v1", "models": ["x"]},
        "locked": {"url": f"{back.url}/v1", "models": ["starter-text"], "api_key_env": "NO_SUCH_VARIABLE"},
        "fast": {"vllm": str(tmp_path_factory.mktemp("model")), "models": ["x"]}})
    served.wait()
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client
    served.stop()


def body(model: str = MODEL, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0.0,
            "max_tokens": 12, **more}


def test_its_models_are_listed(front: httpx.Client) -> None:
    listed = {item["id"] for item in front.get("/v1/models").json()["data"]}
    assert {MODEL, "other/ghost", "gone/x", "fast/x"} <= listed
    assert front.get(f"/v1/models/{MODEL}").json()["panel"] == "text"


def test_the_answer_is_the_other_server_s(front: httpx.Client, back: Served) -> None:
    there = httpx.post(f"{back.url}/v1/chat/completions", json=body("starter-text"), timeout=120).json()
    here = front.post("/v1/chat/completions", json=body()).json()
    assert here["choices"][0]["message"]["content"] == there["choices"][0]["message"]["content"]
    assert here["choices"][0]["finish_reason"] == there["choices"][0]["finish_reason"]
    assert here["usage"]["completion_tokens"] == there["usage"]["completion_tokens"]
    assert here["usage"]["prompt_tokens"] == there["usage"]["prompt_tokens"] and here["model"] == MODEL


def test_it_is_streamed_through(front: httpx.Client) -> None:
    whole = front.post("/v1/chat/completions", json=body()).json()["choices"][0]["message"]["content"]
    with front.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == whole and sum(map(bool, pieces)) > 2 and lines[-1] == "[DONE]"


def test_completions_and_probabilities(front: httpx.Client, back: Served) -> None:
    asked = {"prompt": "one two three", "temperature": 0.0, "max_tokens": 4, "logprobs": 2}
    there = httpx.post(f"{back.url}/v1/completions", json={**asked, "model": "starter-text"}, timeout=120).json()
    here = front.post("/v1/completions", json={**asked, "model": MODEL}).json()
    assert here["choices"][0]["text"] == there["choices"][0]["text"]
    assert here["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(
        there["choices"][0]["logprobs"]["token_logprobs"], abs=1e-3)


def test_forms_and_calls(front: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"],
              "additionalProperties": False}
    asked = body(max_tokens=60, response_format={"type": "json_schema", "json_schema": {
        "name": "colour", "strict": True, "schema": schema}})
    content = front.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    assert json.loads(content)["colour"] in ("red", "blue")
    asked = body(max_tokens=60, tool_choice="required", tools=[{"type": "function", "function": {
        "name": "paint", "parameters": schema}}])
    choice = front.post("/v1/chat/completions", json=asked).json()["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "paint" and json.loads(call["arguments"])["colour"] in ("red", "blue")


def test_vectors(front: httpx.Client, back: Served) -> None:
    there = httpx.post(f"{back.url}/v1/embeddings", json={"model": "starter-text", "input": ["a", "b"]}, timeout=120)
    here = front.post("/v1/embeddings", json={"model": MODEL, "input": ["a", "b"]})
    assert here.status_code == 200, here.text
    for mine, theirs in zip(here.json()["data"], there.json()["data"], strict=True):
        assert mine["embedding"] == pytest.approx(theirs["embedding"], abs=1e-4)


@pytest.mark.parametrize(("asked", "status", "words"), [
    (body("other/ghost"), 404, "ghost"),
    (body(messages=[{"role": "user", "content": "word " * 2000}]), 400, "512"),
    (body("gone/x"), 503, "cannot be reached"),
    (body("locked/starter-text"), 503, "NO_SUCH_VARIABLE"),
    (body("fast/x"), 503, "pip install vllm"),
    (body(typical_p=0.5), 400, "typical_p"),
    (body(truncation="auto"), 400, "truncation"),
])
def test_errors_are_told(front: httpx.Client, asked: dict[str, object], status: int, words: str) -> None:
    answer = front.post("/v1/chat/completions", json=asked)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_fields_that_it_knows_go_through(front: httpx.Client) -> None:
    assert front.post("/v1/chat/completions", json=body(top_k=3, min_tokens=2)).status_code == 200
