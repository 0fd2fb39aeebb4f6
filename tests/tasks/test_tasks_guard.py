"""The guard on what is said to a model and what it says, with the starter model as writer and judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from test_tasks_vectors import refused

from diptych.api.openai.schema import Guarded
from diptych.api.tasks.guard_fields import MISTRAL, guards_of
from diptych.core.errors import InvalidRequest
from diptych.core.events import Finished, Metrics, ReasoningDelta, TokenDelta, ToolCallDelta
from diptych.core.guard import CATEGORIES, Guard
from diptych.settings import Settings
from diptych.text.guard import LEAST, MOST, OVERLAP, WINDOW, Held, halves, windows
from diptych.text.moderate import CATEGORIES as SCORED
from model_server import serving

MODEL = "starter-text"
CHAT, MESSAGES, RESPONSES, COMPLETE = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"
THREAT = "I will kill you and your family with a knife."
HARMLESS = "The cat sat on the mat and looked out of the window for a long time, because it was raining. "
VIOLENCE: dict[str, Any] = {"categories": ["violence"], "threshold": 0.6}
OUT = {**VIOLENCE, "input": False}
BAD: list[tuple[Any, ...]] = [
    ({"guard": 1}, "guard"), ({"guard": "yes"}, "guard"), ({"guard": {"threshold": 2}}, "guard.threshold"),
    ({"guard": {"threshold": "1"}}, "guard.threshold"), ({"guard": {"unheard_of": 1}}, "guard.unheard_of"),
    ({"guard": {"categories": []}}, "guard.categories"), ({"guard": {"categories": ["rude"]}}, "guard.categories[0]"),
    ({"guard": {"thresholds": {"hate": 7}}}, "guard.thresholds.hate"),
    ({"guard": {"thresholds": 1}}, "guard.thresholds"),
    ({"guard": {"thresholds": {"hate": 0.1}, "categories": ["sexual"]}}, "guard"),
    ({"guard": {"input": False, "output": False}}, "guard"), ({"guard": {"model": "nothing"}}, "guard.model", 404),
    ({"guard": {"model": "starter"}}, "guard.model"),
    ({"guardrails": {}}, "guardrails"), ({"guardrails": [1]}, "guardrails[0]"),
    ({"guardrails": [{"magic": {}}]}, "guardrails[0].magic"),
    ({"guardrails": [{"moderation_llm_v2": 1}]}, "guardrails[0].moderation_llm_v2"),
    ({"guardrails": [{"moderation_llm_v2": {"action": "log"}}]}, "guardrails[0].moderation_llm_v2.action"),
    ({"guardrails": [{"moderation_llm_v1": {"model_name": "other"}}]}, "guardrails[0].moderation_llm_v1.model_name"),
    ({"guardrails": [{"moderation_llm_v2": {"ignore_other_categories": True}}]},
     "guardrails[0].moderation_llm_v2.custom_category_thresholds"),
    ({"guardrails": [{"moderation_llm_v2": {"custom_category_thresholds": {"pii": 0.5}}}]},
     "guardrails[0].moderation_llm_v2.custom_category_thresholds.pii"),
    ({"guardrails": [{"moderation_llm_v2": {"custom_category_thresholds": {"sexual": 5}}}]},
     "guardrails[0].moderation_llm_v2.custom_category_thresholds.sexual"),
]


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 60, **more}


def forced(text: str) -> dict[str, Any]:
    """The model can write nothing else."""
    return {"response_format": {"type": "choice", "choices": [text]}, "max_tokens": 200}


def streamed(http: httpx.Client, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text that was told, and the last choice."""
    text, last = "", {}
    with http.stream("POST", CHAT, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    last = choice
    return text, last


@pytest.mark.parametrize(("fields", "rest"), [(one[0], one[1:]) for one in BAD], ids=[str(one[0])[:60] for one in BAD])
def test_refusals(http: httpx.Client, fields: dict[str, Any], rest: tuple[Any, ...]) -> None:
    refused(http, CHAT, chat("a", **fields), rest, "")


def test_what_users_say(http: httpx.Client, url: str) -> None:
    """Refused in each protocol's own shape, whole or streamed; the message says the scores, and which field it was."""
    for stream in (False, True):
        answer = http.post(CHAT, json=chat(THREAT, guard=VIOLENCE, stream=stream))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (403, "content_filter", "messages")
        assert error["guard"]["blocked"]["violence"] > 0.9 and "violence" in error["message"]
    for path, body, field in ((RESPONSES, {"input": THREAT}, "input"), (COMPLETE, {"prompt": THREAT}, "prompt")):
        refused(http, path, {"model": MODEL, "guard": VIOLENCE, **body}, (field, 403), "")
    refused(http, COMPLETE, {"model": MODEL, "guard": True, "prompt": [1, 2]}, ("prompt",), "")
    with anthropic.Anthropic(base_url=url, api_key="none") as client, pytest.raises(anthropic.PermissionDeniedError):
        client.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": THREAT}],
                               extra_body={"guard": VIOLENCE})
    earlier = [{"role": "user", "content": THREAT}, {"role": "assistant", "content": "No."},
               {"role": "user", "content": "Hello."}]
    assert http.post(CHAT, json={**chat(""), "messages": earlier, "guard": VIOLENCE}).status_code == 403
    result = [{"role": "user", "content": "Hello."},
              {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {
                  "name": "look", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "a", "content": THREAT}]
    assert http.post(CHAT, json={**chat(""), "messages": result, "guard": VIOLENCE}).status_code == 403


def test_a_long_text_is_judged_whole(http: httpx.Client) -> None:
    """Also what one context of the model that judges cannot hold."""
    guard = {**VIOLENCE, "output": False}
    for text in (f"{HARMLESS * 5}{THREAT} {HARMLESS * 5}", "\U00012000" * 300 + f" {THREAT}"):
        answer = http.post(CHAT, json=chat(text, guard=guard, max_tokens=3))
        assert answer.status_code == 403, answer.text
    assert http.post(CHAT, json=chat(HARMLESS * 3, guard=guard, max_tokens=3)).status_code == 200


def test_mistrals_guardrails(http: httpx.Client, url: str) -> None:
    rail: Any = {"moderation_llm_v2": {"custom_category_thresholds": {"violence_and_threats": 0.8},
                                       "ignore_other_categories": True}}
    talk: Any = [{"role": "user", "content": THREAT}]
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        with pytest.raises(SDKError) as refusal:
            client.chat.complete(model=MODEL, messages=talk, guardrails=[rail])
        assert refusal.value.status_code == 403 and "content_filter" in refusal.value.body
        told = client.chat.complete(model=MODEL, max_tokens=3, guardrails=[rail],
                                    messages=[{"role": "user", "content": "What is the capital of Italy?"}])
    assert told.choices[0].message is not None
    rail["moderation_llm_v2"]["action"] = "none"
    assert http.post(CHAT, json=chat(THREAT, guardrails=[rail], max_tokens=3)).status_code == 200


def test_what_passes_is_the_same(http: httpx.Client) -> None:
    body = chat("Tell me about the sea.", seed=3, logprobs=True)
    free = http.post(CHAT, json=body).json()
    guard = {"threshold": 1.0, "categories": ["hate", "violence"]}
    held = http.post(CHAT, json={**body, "guard": guard}).json()
    assert held["choices"] == free["choices"] and held["usage"]["completion_tokens"] == 60
    text, last = streamed(http, {**body, "guard": guard})
    assert text == free["choices"][0]["message"]["content"] and last["finish_reason"] == "length"


def test_answers(http: httpx.Client) -> None:
    """A blocked piece is never told; what was harmless before it may be."""
    whole = http.post(CHAT, json=chat("Go on.", guard=OUT, n=2, **forced(THREAT))).json()
    for choice in whole["choices"]:
        assert choice["finish_reason"] == "content_filter" and choice["message"]["content"] == ""
        assert choice["guard"]["blocked"]["violence"] > 0.9
    assert whole["usage"]["completion_tokens"] > 0
    said = HARMLESS * 4
    text, last = streamed(http, chat("Go on.", guard=OUT, **forced(said + THREAT)))
    assert said.startswith(text) and last["finish_reason"] == "content_filter"
    harmless, last = streamed(http, chat("Go on.", guard=OUT, **forced(said)))
    assert (harmless, last["finish_reason"]) == (said, "stop")


def test_answers_of_other_protocols(http: httpx.Client) -> None:
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"const": THREAT}}}
    told = http.post(RESPONSES, json={"model": MODEL, "input": "Go on.", "guard": OUT, "text": form}).json()
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert "kill" not in json.dumps(told["output"]) and told["guard"]["blocked"]["violence"] > 0.9
    body = {"model": MODEL, "max_tokens": 60, "messages": [{"role": "user", "content": "Go on."}], "guard": OUT,
            "output_format": {"type": "json_schema", "schema": {"const": THREAT}}}
    told = http.post(MESSAGES, json=body).json()
    assert (told["stop_reason"], told["content"]) == ("refusal", []) and told["guard"]["blocked"]
    told = http.post(COMPLETE, json={"model": MODEL, "prompt": "Go on.", "guard": OUT, **forced(THREAT)}).json()
    assert (told["choices"][0]["finish_reason"], told["choices"][0]["text"]) == ("content_filter", "")


def test_calls(http: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "send", "parameters": {
        "type": "object", "properties": {"text": {"const": THREAT}}, "required": ["text"],
        "additionalProperties": False}}}
    body = chat("Send it.", tools=[tool], tool_choice="required")
    free = http.post(CHAT, json=body).json()["choices"][0]
    assert json.loads(free["message"]["tool_calls"][0]["function"]["arguments"]) == {"text": THREAT}
    held = http.post(CHAT, json={**body, "guard": OUT}).json()["choices"][0]
    assert held["finish_reason"] == "content_filter" and not held["message"].get("tool_calls")


def test_more_answers_than_places(http: httpx.Client) -> None:
    """Answers that wait for their judge hold no place that it needs."""
    def ask(number: int) -> str:
        body = chat(f"Count from {number}.", guard={**OUT, "threshold": 1.0}, max_tokens=30)
        return str(http.post(CHAT, json=body).json()["choices"][0]["finish_reason"])

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) <= {"stop", "length"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, starter_text: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A server whose operator set a guard; the folder of the model that judges."""
    data = tmp_path_factory.mktemp("guarded") / "data"
    judge = tmp_path_factory.mktemp("judge")
    (judge / "judge.gguf").symlink_to(starter_text)
    models = {"starter-text": starter_text.parent, "judge": judge}
    guard = json.dumps({"model": "judge", **VIOLENCE})
    with serving(data, models, DIPTYCH_GUARD=guard) as url, httpx.Client(base_url=url, timeout=120) as http:
        yield http, data / "models" / "judge"


def test_the_operators_guard(kept: tuple[httpx.Client, Path]) -> None:
    """Holds at every route that writes text, and cannot be switched off; without its model nothing is answered."""
    http, judge = kept
    assert http.post(CHAT, json=chat("What is the capital of Italy?", max_tokens=3)).status_code == 200
    refused(http, CHAT, chat("a", guard=False), ("guard",), "")
    for path, body, field in (
            (CHAT, chat(THREAT, guard={"categories": ["sexual"], "input": False}), "messages"),
            (RESPONSES, {"model": MODEL, "input": THREAT}, "input"),
            (COMPLETE, {"model": MODEL, "prompt": THREAT}, "prompt"),
            ("/v1/fim/completions", {"model": MODEL, "prompt": THREAT}, "prompt"),
            ("/api/translate", {"text": THREAT, "target": "French"}, "text"),
            ("/api/agents/run", {"model": MODEL, "input": THREAT}, "messages")):
        refused(http, path, body, (field, 403), "")
    assert http.post(MESSAGES, json={"model": MODEL, "max_tokens": 5, "messages": [
        {"role": "user", "content": THREAT}]}).json()["error"]["type"] == "permission_error"
    judge.unlink()
    answer = http.post(CHAT, json=chat("Hello."))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guard_failed")
    assert "judge" in answer.json()["error"]["message"]


# Without a server


def test_categories_are_those_of_moderation() -> None:
    assert tuple(SCORED) == CATEGORIES
    assert {name for names in MISTRAL.values() for name in names} <= set(CATEGORIES)


def test_limits() -> None:
    guard = Guard(threshold=0.7, thresholds={"hate": 0.2})
    scores = {**dict.fromkeys(CATEGORIES, 0.5), "hate": 0.2, "violence": 0.7}
    assert guard.blocked(scores) == {"hate": 0.2, "violence": 0.7}
    assert Guard(categories=("sexual",)).limits() == {"sexual": 0.5}


def test_guards_of_a_request() -> None:
    none, own = Settings(), Settings(guard=Guard(model="judge"))
    assert guards_of(Guarded(), own) == () and guards_of(Guarded(guard=False), none) == ()
    assert guards_of(Guarded(guard=True), own) == (Guard(model="judge"),)
    with pytest.raises(InvalidRequest, match="switched off"):
        guards_of(Guarded(guard=False), own)
    rails = [{"moderation_llm_v1": None, "moderation_llm_v2": {
        "custom_category_thresholds": {"criminal": 0.3, "dangerous": None}, "model_name": "mistral-moderation-2603"}}]
    made, = guards_of(Guarded(guardrails=rails), none)
    assert made.thresholds == {"illicit": 0.3} and made.categories is None and not made.output


def test_held_pieces() -> None:
    held = Held()
    held.take(TokenDelta(text="a" * LEAST))
    assert not held.due(more=False)
    held.take(ReasoningDelta(text="thought."))
    assert held.due(more=False) and not held.due(more=True)
    held.take(ToolCallDelta(index=0, id="x", name="send", arguments='{"a"'))
    assert held.texts() == ["a" * LEAST, "thought.", 'send{"a"']
    assert len(held.release()) == 3 and held.release() == [] and not held.due(more=False)
    held.take(TokenDelta(text="b" * MOST))
    assert held.due(more=True) and held.texts() == ["a" * LEAST + "b" * MOST]
    held.release()
    held.take(Metrics(values={}))
    held.take(Finished())
    assert held.due(more=True) and held.texts() == []


def test_windows_leave_nothing_out() -> None:
    text = "".join(chr(65 + index % 26) for index in range(WINDOW * 3 + 7))
    parts = windows(text)
    assert all(len(part) <= WINDOW for part in parts)
    assert parts[0] + "".join(part[OVERLAP:] for part in parts[1:]) == text
    first, second = halves(text)
    assert text.startswith(first) and text.endswith(second) and len(first) + len(second) == len(text) + 40
