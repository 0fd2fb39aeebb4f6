"""`documents` of chat: the answer's citations hold, whatever the model writes; what does not fit is told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from grounded_server import CONTEXT
from openai import OpenAI

from diptych.text.grounding.words import words_of

TOWER = ("The Eiffel Tower is 330 metres tall. It stands in Paris, on the Champ de Mars. Gustave Eiffel's company "
         "built it between 1887 and 1889.")
CAFE = {"id": "cafe", "title": "Café Zoé", "text": 'The café "Zoé" opened in 1931. Its coffee comes from Ethiopia.'}
QUESTION = {"role": "user", "content": "How tall is the Eiffel Tower?"}


def chat(http: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"model": "starter-text", "messages": [QUESTION], "temperature": 0, "max_tokens": 48, **fields}
    return http.post("/v1/chat/completions", json=body)


def answered(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = chat(http, **fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def check(content: str, citations: list[dict[str, Any]], texts: dict[str, str]) -> None:
    """Every citation is where it says it is, in the answer and in its source."""
    for citation in citations:
        assert content[citation["start"]:citation["end"]] == citation["text"] != ""
        assert citation["sources"]
        for source in citation["sources"]:
            assert texts[source["id"]][source["start"]:source["end"]] == source["quote"] != ""
            if source["match"] == "exact":
                assert [w.text for w in words_of(source["quote"])] == [w.text for w in words_of(citation["text"])]


TEXTS = {"doc_0": TOWER, "cafe": CAFE["text"]}


def test_a_small_model_is_cited(http: httpx.Client) -> None:
    found = answered(http, documents=[TOWER, CAFE])
    message = found["choices"][0]["message"]
    assert "330" in message["content"]
    check(message["content"], message["citations"], TEXTS)
    assert any("330" in citation["text"] and citation["sources"][0]["id"] == "doc_0"
               for citation in message["citations"])
    assert found["documents_used"] == [
        {"id": "doc_0", "start": 0, "end": len(TOWER)},
        {"id": "cafe", "title": "Café Zoé", "start": 0, "end": len(CAFE["text"])}]
    assert found["documents_left_out"] == []


def test_streamed_citations_come_before_the_end(http: httpx.Client) -> None:
    whole = answered(http, documents=[TOWER, CAFE], seed=1)["choices"][0]["message"]
    chunks = []
    with http.stream("POST", "/v1/chat/completions", json={
            "model": "starter-text", "messages": [QUESTION], "temperature": 0, "max_tokens": 48, "seed": 1,
            "documents": [TOWER, CAFE], "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line[6:]))
    assert [source["id"] for source in chunks[0]["documents_used"]] == ["doc_0", "cafe"]
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == whole["content"]
    with_citations = [index for index, delta in enumerate(deltas) if "citations" in delta["delta"]]
    assert len(with_citations) == 1 and deltas[with_citations[0]]["delta"]["citations"] == whole["citations"]
    assert deltas[-1]["finish_reason"] and with_citations[0] == len(deltas) - 2


@pytest.mark.parametrize("seed", range(3))
def test_quotes_are_literal_at_any_temperature(http: httpx.Client, seed: int) -> None:
    """A grammar holds the quotes: also a model that knows nothing of them quotes word by word."""
    found = answered(http, documents=[TOWER, CAFE], citations="quote", temperature=1.5, seed=seed, max_tokens=160)
    choice = found["choices"][0]
    content, citations = choice["message"]["content"], choice["message"]["citations"]
    check(content, citations, TEXTS)
    quoted = content.split('"')[1::2]
    assert "[" not in content
    assert quoted, content  # the prose before the first quote is bounded
    if choice["finish_reason"] == "length" and content.count('"') % 2:
        quoted.pop()  # cut in the middle
    assert [citation["text"] for citation in citations] == quoted
    assert all(source["match"] == "exact" for citation in citations for source in citation["sources"])


def test_citations_can_be_switched_off(http: httpx.Client) -> None:
    for fields in ({"citations": "off"}, {"citation_options": {"mode": "OFF"}}):
        assert "citations" not in answered(http, documents=[TOWER], **fields)["choices"][0]["message"]


def test_cohere_documents_and_several_answers(http: httpx.Client) -> None:
    documents = [{"id": "a", "data": {"title": "Tower", "snippet": TOWER}}, {"id": "b", "data": "It is 5 metres wide."},
                 {"city": "Paris", "height": "330 metres"}]
    found = answered(http, documents=documents, n=2, temperature=0.8, seed=4)
    texts = {"a": TOWER, "b": "It is 5 metres wide.", "doc_2": "city: Paris\nheight: 330 metres"}
    assert [used["id"] for used in found["documents_used"]] == ["a", "b", "doc_2"]
    for choice in found["choices"]:
        check(choice["message"]["content"], choice["message"]["citations"], texts)


def test_what_does_not_fit_is_left_out_by_rank_and_told(http: httpx.Client) -> None:
    filler = [{"id": f"f{index}", "text": f"Note {index}. " + "The harvest of oats was good in the north. " * 12}
              for index in range(12)]
    found = answered(http, documents=[*filler, {"id": "tower", "text": TOWER}])
    used = {source["id"] for source in found["documents_used"]}
    left = {source["id"]: source for source in found["documents_left_out"]}
    assert "tower" in used and left
    assert all(source["reason"] == "context" and source["passages"] >= 1 for source in left.values())
    assert used | set(left) == {f"f{index}" for index in range(12)} | {"tower"}
    assert found["usage"]["prompt_tokens"] < CONTEXT


def test_the_engines_own_count_decides(http: httpx.Client) -> None:
    """Texts with more tokens than their length lets expect: fewer are put in, until the prompt fits."""
    rare = " ".join(f"{number * 7919 % 1000003:x}" for number in range(400))
    found = answered(http, documents=[{"id": "hex", "text": rare}, {"id": "tower", "text": TOWER}], max_tokens=8)
    assert found["usage"]["prompt_tokens"] < CONTEXT
    assert found["documents_used"] and found["documents_left_out"]


def test_a_question_over_the_context_is_refused(http: httpx.Client) -> None:
    response = chat(http, messages=[{"role": "user", "content": "why " * 2000}], documents=[TOWER])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_with_a_form_the_values_are_cited(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"height": {"type": "string", "enum": ["330 metres tall"]}},
              "required": ["height"], "additionalProperties": False}
    found = answered(http, documents=[TOWER], response_format={
        "type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    message = found["choices"][0]["message"]
    assert json.loads(message["content"]) == {"height": "330 metres tall"}
    check(message["content"], message["citations"], TEXTS)
    assert any("330 metres tall" in citation["text"] for citation in message["citations"])


def test_openai_client(server: Any) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    found = client.chat.completions.create(
        model="starter-text", messages=[{"role": "user", "content": "How tall is the tower?"}], temperature=0,
        max_tokens=32, extra_body={"documents": [TOWER]})
    extra = found.choices[0].message.model_extra
    assert extra is not None and isinstance(extra["citations"], list)


@pytest.mark.parametrize(("fields", "param"), [
    ({"documents": "text"}, "documents"),
    ({"documents": {"text": "a"}}, "documents"),
    ({"documents": [1]}, "documents[0]"),
    ({"documents": ["fine", ""]}, "documents[1]"),
    ({"documents": ["  \n"]}, "documents[0]"),
    ({"documents": [{}]}, "documents[0].text"),
    ({"documents": [{"id": "a"}]}, "documents[0].text"),
    ({"documents": [{"text": 5}]}, "documents[0].text"),
    ({"documents": [{"text": "a", "title": 5}]}, "documents[0].title"),
    ({"documents": [{"text": "a", "id": ""}]}, "documents[0].id"),
    ({"documents": [{"text": "a", "id": 7}]}, "documents[0].id"),
    ({"documents": [{"text": "a", "id": "x" * 600}]}, "documents[0].id"),
    ({"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, "documents[1].id"),
    ({"documents": [{"data": 5}]}, "documents[0].data"),
    ({"documents": ["a"] * 1001}, "documents"),
    ({"citations": "quote"}, "citations"),
    ({"citations": "inline"}, "citations"),
    ({"citations": 5}, "citations"),
    ({"documents": ["a b c"], "citation_options": "off"}, "citation_options"),
    ({"documents": ["a b c"], "citation_options": {"mode": "slow"}}, "citation_options.mode"),
    ({"documents": ["a b c"], "citation_options": {"mode": "off"}, "citations": "quote"}, "citation_options.mode"),
    ({"documents": ["a b c"], "citations": "quote", "response_format": {"type": "json_object"}}, "citations"),
    ({"documents": ["a b c"], "citations": "quote", "tools": [{"type": "function", "function": {"name": "f"}}]},
     "citations"),
    ({"documents": ["a b c"], "citations": "quote", "stop": ["a"]}, "stop"),
])
def test_bad_requests(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    response = chat(http, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
