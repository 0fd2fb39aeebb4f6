"""Fields of chat and completions on the real server: each has its effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

PARIS = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
FRANCE = "The capital of France is"
BASE: dict[str, Any] = {"model": "starter-text", "messages": PARIS, "temperature": 0, "max_tokens": 8}
WARM = {"temperature": 2.0, "min_p": 0, "top_p": 1, "top_k": 0, "max_tokens": 6}


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


def chat(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post("/v1/chat/completions", json={**BASE, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def complete(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post("/v1/completions", json={
        "model": "starter-text", "prompt": FRANCE, "temperature": 0, "max_tokens": 4, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(answer: Any) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


def test_n_are_the_answers_of_the_next_seeds(http: httpx.Client) -> None:
    three = chat(http, n=3, seed=11, **WARM)
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert len(set(said(three))) == 3
    assert said(chat(http, seed=12, **WARM)) == [said(three)[1]]
    assert said(chat(http, random_seed=13, **WARM)) == [said(three)[2]]
    one = chat(http, seed=11, **WARM)
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert one["usage"]["completion_tokens"] <= 6 < three["usage"]["completion_tokens"] <= 18


def test_n_streamed(client: openai.OpenAI) -> None:
    texts, roles, ends, usage = {0: "", 1: "", 2: ""}, [], [], None
    stream: Any = client.chat.completions.create(
        model="starter-text", messages=PARIS, n=3, seed=11, temperature=2.0, max_tokens=6, top_p=1, stream=True,  # type: ignore[arg-type]
        stream_options={"include_usage": True}, extra_body={"min_p": 0, "top_k": 0})
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.index] * bool(choice.delta.role)
            ends += [choice.index] * bool(choice.finish_reason)
        usage = chunk.usage
    assert sorted(roles) == sorted(ends) == [0, 1, 2]
    whole = client.chat.completions.create(
        model="starter-text", messages=PARIS, n=3, seed=11, temperature=2.0, max_tokens=6, top_p=1,  # type: ignore[arg-type]
        extra_body={"min_p": 0, "top_k": 0})
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


def test_probabilities(http: httpx.Client) -> None:
    found = chat(http, logprobs=True, top_logprobs=3, max_tokens=3)["choices"][0]
    tokens = found["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == found["message"]["content"]
    assert all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in tokens)
    assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
    assert chat(http, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(http, max_tokens=1)["choices"][0]["logprobs"] is None
    old = complete(http, logprobs=2)["choices"][0]
    assert "".join(old["logprobs"]["tokens"]) == old["text"]
    assert old["logprobs"]["text_offset"][1] == len(old["logprobs"]["tokens"][0])
    assert all(len(top) == 2 for top in old["logprobs"]["top_logprobs"])


def test_probabilities_streamed(client: openai.OpenAI) -> None:
    stream: Any = client.completions.create(
        model="starter-text", prompt=FRANCE, temperature=0, max_tokens=4, logprobs=1, stream=True)
    text, offsets, tokens = "", [], []
    for chunk in stream:
        choice = chunk.choices[0]
        text += choice.text
        if choice.logprobs:
            offsets += choice.logprobs.text_offset
            tokens += choice.logprobs.tokens
    assert "".join(tokens) == text
    assert offsets == [sum(map(len, tokens[:index])) for index in range(len(tokens))]


def test_bias_and_penalties(http: httpx.Client) -> None:
    plain = said(chat(http))[0]
    assert "Paris" in plain
    assert "Paris" not in said(chat(http, logit_bias={" Paris": -100}))[0]
    assert "Paris" not in said(chat(http, logit_bias=[[" Paris", -100]]))[0]
    loop = {"prompt": "The cat sat on the mat. " * 4, "max_tokens": 16}
    assert complete(http, **loop)["choices"][0]["text"].count("The cat sat") == 2
    for more in ({"frequency_penalty": 2}, {"repeat_penalty": 2.0}, {"repetition_penalty": 2.0},
                 {"dry_multiplier": 5, "dry_allowed_length": 1, "dry_sequence_breakers": ["x"]}):
        assert complete(http, **loop, **more)["choices"][0]["text"].count("The cat sat") < 2, more


def test_limits(http: httpx.Client) -> None:
    assert complete(http, max_tokens=3, min_tokens=3)["usage"]["completion_tokens"] == 3
    short = chat(http, max_tokens=20)
    assert short["choices"][0]["finish_reason"] == "stop"
    longer = chat(http, max_tokens=20, min_tokens=15)
    assert longer["usage"]["completion_tokens"] >= 15
    assert chat(http, max_tokens=20, ignore_eos=True)["usage"]["completion_tokens"] == 20


def test_stop_is_told(http: httpx.Client) -> None:
    found = chat(http, stop=["xyz", " France"])["choices"][0]
    assert (found["message"]["content"], found["finish_reason"], found["stop_reason"]) == (
        "The capital of", "stop", " France")
    assert said(chat(http, stop=" France", include_stop_str_in_output=True)) == ["The capital of France"]
    assert chat(http, max_tokens=20)["choices"][0]["stop_reason"] is None


def test_prompts_of_all_forms(http: httpx.Client) -> None:
    both = complete(http, prompt=[FRANCE, "1, 2, 3, 4,"])
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert "Paris" in both["choices"][0]["text"]
    assert "5" in both["choices"][1]["text"]
    tokens = [504, 3575, 282, 4649, 314]  # "The capital of France is"
    echoed = complete(http, prompt=tokens, echo=True)["choices"][0]["text"]
    assert echoed == FRANCE + complete(http, prompt=FRANCE)["choices"][0]["text"]
    lists = complete(http, prompt=[tokens, tokens], n=2)
    assert len(lists["choices"]) == 4
    assert lists["usage"]["prompt_tokens"] == 2 * complete(http, prompt=tokens)["usage"]["prompt_tokens"]
    assert complete(http, echo=True)["choices"][0]["text"].startswith(FRANCE)


def test_best_of_gives_the_likeliest(http: httpx.Client) -> None:
    def likelihood(choice: Any) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    every = complete(http, n=4, logprobs=0, seed=3, **WARM)["choices"]
    best = complete(http, best_of=4, n=2, logprobs=0, seed=3, **WARM)["choices"]
    order = sorted(every, key=likelihood, reverse=True)
    assert [choice["text"] for choice in best] == [choice["text"] for choice in order[:2]]
    assert complete(http, best_of=2, seed=3, **WARM)["choices"][0]["logprobs"] is None


def test_prefix_goes_on_from_the_answer(http: httpx.Client) -> None:
    begun = [*PARIS, {"role": "assistant", "content": "The capital of France is", "prefix": True}]
    assert said(chat(http, messages=begun))[0].strip().startswith("Paris")
    begun[-1].pop("prefix")
    assert said(chat(http, messages=begun, continue_final_message=True))[0].strip().startswith("Paris")


def test_safe_prompt_and_template_are_part_of_the_prompt(http: httpx.Client) -> None:
    plain = chat(http, max_tokens=1)["usage"]["prompt_tokens"]
    assert chat(http, max_tokens=1, safe_prompt=True)["usage"]["prompt_tokens"] != plain
    assert chat(http, max_tokens=1, safe_prompt=False)["usage"]["prompt_tokens"] == plain


def test_two_turns_in_a_row_and_thoughts_of_before(http: httpx.Client) -> None:
    assert chat(http, messages=[{"role": "user", "content": "Hello."}, *PARIS])["choices"]
    before = [*PARIS, {"role": "assistant", "content": "Paris.", "reasoning_content": "France has one."},
              {"role": "user", "content": [{"type": "text", "text": "And of Italy?"}]}]
    assert chat(http, messages=before)["choices"]


def test_context_overflow(http: httpx.Client) -> None:
    long = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "yes " * 200}, *PARIS]
    refused = http.post("/v1/chat/completions", json={**BASE, "messages": long})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert "512" in refused.json()["error"]["message"]
    assert "Paris" in said(chat(http, messages=long, truncation="auto"))[0]


def test_meaningless_fields_are_taken(http: httpx.Client) -> None:
    more = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x",
            "prompt_cache_key": "y", "prediction": {"type": "content", "content": "Paris"}, "verbosity": "medium",
            "modalities": ["text"], "reasoning_effort": "none", "parallel_tool_calls": False}
    assert said(chat(http, **more)) == said(chat(http))


def test_a_failure_before_the_first_piece_has_its_status_with_n(http: httpx.Client) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    for stream in (False, True):
        answer = http.post("/v1/chat/completions", json={**BASE, "messages": long, "n": 3, "stream": stream})
        assert answer.status_code == 400
        assert json.loads(answer.text)["error"]["code"] == "context_length_exceeded"


def test_a_stream_of_several_that_is_left_ends_all_its_runs(http: httpx.Client, until: Any) -> None:
    def running() -> int:
        runners = http.get("/api/system").json()["runners"]
        return sum(runner["running"] for runner in runners if runner["model"] == "starter-text")

    body = {**BASE, "messages": [{"role": "user", "content": "Tell me a very long story."}], "n": 3, "stream": True,
            "max_tokens": 400, "ignore_eos": True, "temperature": 1.0}
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        until(lambda: '"index":1' in next(lines))
        assert running() >= 2
    until(lambda: running() == 0)
