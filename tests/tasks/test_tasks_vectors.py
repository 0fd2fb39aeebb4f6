"""Vectors, relevance and gaps, over HTTP and with clients that nobody here wrote."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral

MODEL = "starter-text"
EMBED, RERANK, FIM = "/v1/embeddings", "/v1/rerank", "/v1/fim/completions"
CAPITALS = ["Cats sleep for most of the day.", "Paris is the capital of France.", "Iron rusts in wet air."]
GOOD: dict[str, dict[str, Any]] = {
    EMBED: {"model": MODEL, "input": "a"}, RERANK: {"model": MODEL, "query": "a", "documents": ["b"]},
    FIM: {"model": MODEL, "prompt": "a", "max_tokens": 1},
}
NOT_THERE = object()
#: (path, field, value, the `param` of the refusal where it is not the field, status where it is not 400)
BAD: list[tuple[Any, ...]] = [
    (EMBED, "input", NOT_THERE), (EMBED, "input", ""), (EMBED, "input", []), (EMBED, "input", 5),
    (EMBED, "input", ["a", ""], "input[1]"), (EMBED, "input", ["a", 5], "input[1]"), (EMBED, "input", [[]], "input[0]"),
    (EMBED, "input", [-1], "input[0]"), (EMBED, "input", [10**6], "input[0]"), (EMBED, "input", {"text": "a"}),
    (EMBED, "input", ["a"] * 2049), (EMBED, "input", "word " * 2000, "input[0]"), (EMBED, "encoding_format", "int8"),
    (EMBED, "dimensions", 0), (EMBED, "dimensions", 577), (EMBED, "dimensions", "8"), (EMBED, "output_dtype", "int8"),
    (EMBED, "model", "nothing", "model", 404), (EMBED, "model", "starter"), (EMBED, "model", NOT_THERE),
    (RERANK, "query", ""), (RERANK, "query", NOT_THERE), (RERANK, "query", 1), (RERANK, "documents", []),
    (RERANK, "documents", "a"), (RERANK, "documents", [""], "documents[0]"), (RERANK, "documents", [5], "documents[0]"),
    (RERANK, "documents", [{"body": "a"}], "documents[0].text"), (RERANK, "top_n", 0), (RERANK, "method", "magic"),
    (RERANK, "method", "reranker"), (RERANK, "normalize", True), (RERANK, "max_tokens_per_doc", 9),
    (RERANK, "rank_fields", []), (RERANK, "return_documents", "yes"), (RERANK, "model", "nothing", "model", 404),
    (RERANK, "documents", ["a", "word " * 2000], "documents[1]"),
    (RERANK, "query", "word " * 2000),
    (FIM, "prompt", ""), (FIM, "prompt", NOT_THERE), (FIM, "prompt", [1]), (FIM, "suffix", 5), (FIM, "max_tokens", 0),
    (FIM, "suffix", "b"), (FIM, "stream", 1), (FIM, "model", "nothing", "model", 404), (FIM, "top_p", 2),
]


def refused(http: httpx.Client, path: str, body: dict[str, Any], rest: tuple[Any, ...], field: str) -> None:
    param, status = (*rest, *(field, 400)[len(rest):])
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert error["message"]


@pytest.mark.parametrize(("path", "field", "value", "rest"), [(*one[:3], one[3:]) for one in BAD],
                         ids=[f"{one[0]}-{one[1]}-{str(one[2])[:20]}" for one in BAD])
def test_refusals(http: httpx.Client, path: str, field: str, value: Any, rest: tuple[Any, ...]) -> None:
    body = {**GOOD[path], field: value}
    refused(http, path, {name: item for name, item in body.items() if item is not NOT_THERE}, rest, field)


def test_embeddings_of_openais_client(url: str) -> None:
    """Its client asks for base64; both forms hold the same numbers."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        packed = client.embeddings.create(model=MODEL, input=["a cat", "a dog", "a cat"])
        plain = client.embeddings.create(model=MODEL, input=["a cat", "a dog", "a cat"], encoding_format="float")
        short = client.embeddings.create(model=MODEL, input="a cat", dimensions=16)
    assert [item.index for item in packed.data] == [0, 1, 2]
    for first, second in zip(packed.data, plain.data, strict=True):
        assert first.embedding == pytest.approx(second.embedding, abs=1e-6)
        assert math.hypot(*first.embedding) == pytest.approx(1.0, abs=1e-4)
    assert packed.data[0].embedding == pytest.approx(packed.data[2].embedding, abs=5e-3)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 3
    head = packed.data[0].embedding[:16]
    assert short.data[0].embedding == pytest.approx([value / math.hypot(*head) for value in head], abs=5e-3)
    assert short.model_extra is not None and short.model_extra["dimensions"]["of"] == len(packed.data[0].embedding)


def test_embeddings_of_mistrals_client(url: str) -> None:
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        made = client.embeddings.create(model=MODEL, inputs=["a cat"], output_dimension=8)
    assert made.data[0].embedding is not None and len(made.data[0].embedding) == 8


def test_embeddings_of_tokens(http: httpx.Client) -> None:
    answer = http.post(EMBED, json={"model": MODEL, "input": [[1, 2, 3], [4]]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2 and answer.json()["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_rerank_by_likelihood(http: httpx.Client, path: str) -> None:
    body = {"model": MODEL, "query": "What is the capital of France?", "documents": CAPITALS}
    answer = http.post(path, json=body).json()
    assert answer["method"] == "likelihood"
    assert answer["results"][0]["index"] == 1 and sorted(item["index"] for item in answer["results"]) == [0, 1, 2]
    scores = [item["relevance_score"] for item in answer["results"]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.5 and all(0 <= score <= 1 for score in scores)
    assert "document" not in answer["results"][0] and answer["usage"]["total_tokens"] > 30
    again = http.post(path, json=body).json()["results"]
    assert [item["index"] for item in again] == [item["index"] for item in answer["results"]]


def test_rerank_shapes(http: httpx.Client) -> None:
    documents = [{"text": CAPITALS[1], "id": "fr"}, {"text": CAPITALS[0], "id": "cat"}]
    body = {"model": MODEL, "query": "capital of France", "documents": documents, "top_n": 1,
            "return_documents": True, "method": "embeddings"}
    answer = http.post(RERANK, json=body).json()
    assert answer["method"] == "embeddings" and len(answer["results"]) == 1
    assert answer["results"][0]["document"] == documents[answer["results"][0]["index"]]
    fields = http.post(RERANK, json={**body, "rank_fields": ["id", "text"]})
    assert fields.status_code == 200, fields.text
    assert http.post(RERANK, json={**body, "rank_fields": ["none"]}).json()["error"]["param"] == "documents[0]"


def test_fill_of_mistrals_client(url: str, mistral: str) -> None:
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        made = client.fim.complete(model=mistral, prompt="def f():\n", suffix="    return 1", max_tokens=4,
                                   temperature=0, random_seed=1)
        assert made.choices is not None and made.usage.completion_tokens == 4
        text = made.choices[0].message.content  # type: ignore[union-attr]
        pieces = [event.data.choices[0].delta.content or "" for event in client.fim.stream(
            model=mistral, prompt="def f():\n", suffix="    return 1", max_tokens=4, temperature=0, random_seed=1)
            if event.data.choices]
    assert "".join(map(str, pieces)) == text


def test_fill_without_a_gap(http: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
    answer = http.post(FIM, json=body).json()
    assert answer["object"] == "chat.completion" and "Paris" in answer["choices"][0]["message"]["content"]
    lines = [line[6:] for line in http.post(FIM, json={**body, "stream": True}).text.splitlines() if line]
    assert lines[-1] == "[DONE]" and json.loads(lines[0])["object"] == "chat.completion.chunk"
