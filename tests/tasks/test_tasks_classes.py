"""Labels: the arithmetic, and answers of the starter model over HTTP."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import httpx
import pytest
from mistralai.client import Mistral
from test_tasks_vectors import NOT_THERE, refused

from diptych.text.calibrate import Scale, calibration_error, fit_multi, fit_single, quality_multi, quality_single, split
from diptych.text.classify import baseline_of, independent, probabilities

MODEL = "starter-text"
CLASSES, CHATS, FITS = "/v1/classifications", "/v1/chat/classifications", "/api/classifiers"
MOODS = ["positive", "negative"]
KNOWN = [("I love this film, it is wonderful!", 0), ("Terrible food and rude staff.", 1),
         ("What a great day, I am so happy.", 0), ("I hate waiting, it was awful.", 1),
         ("The service was excellent and friendly.", 0), ("Boring, slow and badly acted.", 1)]
RECORDS = [{"text": text, "label": MOODS[mood]} for text, mood in KNOWN]
GOOD: dict[str, dict[str, Any]] = {
    CLASSES: {"model": MODEL, "input": "a", "labels": MOODS},
    CHATS: {"model": MODEL, "input": [{"role": "user", "content": "a"}], "labels": MOODS},
    FITS: {"name": "bad", "model": MODEL, "labels": MOODS, "data": RECORDS},
}
BAD: list[tuple[Any, ...]] = [
    (CLASSES, "model", NOT_THERE), (CLASSES, "model", "nothing", "model", 404), (CLASSES, "model", "starter"),
    (CLASSES, "model", "classifier:x", "labels"), (CLASSES, "classifier", "x", "model"),
    (CLASSES, "input", NOT_THERE), (CLASSES, "input", ""), (CLASSES, "input", []),
    (CLASSES, "input", ["a", 5], "input[1]"),
    (CLASSES, "input", "word " * 2000), (CLASSES, "input", ["a", "word " * 2000], "input[1]"),
    (CLASSES, "labels", NOT_THERE), (CLASSES, "labels", []), (CLASSES, "labels", ["a"]),
    (CLASSES, "labels", ["a", "a"]),
    (CLASSES, "labels", ["a", ""], "labels[1]"), (CLASSES, "labels", ["a", "b\nc"], "labels[1]"),
    (CLASSES, "labels", ["a", {"description": "b"}], "labels[1].name"), (CLASSES, "labels", "a"),
    (CLASSES, "examples", "a"), (CLASSES, "examples", ["a"], "examples[0]"),
    (CLASSES, "examples", [{"text": "a", "label": "other"}], "examples[0].label"), (CLASSES, "threshold", 0.5),
    (CLASSES, "temperature", 0), (CLASSES, "multi_label", "yes"), (CLASSES, "inputs", "b"),
    (CHATS, "model", NOT_THERE), (CHATS, "model", "nothing", "model", 404), (CHATS, "labels", ["a"]),
    (CHATS, "input", NOT_THERE), (CHATS, "input", "a"), (CHATS, "input", []), (CHATS, "input", {}, "input.messages"),
    (CHATS, "input", {"messages": []}, "input.messages"), (CHATS, "input", [[]], "input[0]"),
    (CHATS, "input", [{"role": "user"}], "input[0].content"), (CHATS, "input", [5], "input[0]"),
    (CHATS, "input", [{"role": "nobody", "content": "a"}], "input[0].role"),
    (CHATS, "input", {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
     "input.messages[0].content[0].type"),
    (CHATS, "input", [{"messages": [{"role": "user", "content": "a"}]}, {"messages": 5}], "input[1].messages"),
    (CHATS, "input", [{"role": "user", "content": "word " * 2000}]), (CHATS, "messages", []),
    (FITS, "name", "../x"), (FITS, "name", "A"), (FITS, "name", NOT_THERE), (FITS, "model", "nothing", "model", 404),
    (FITS, "data", NOT_THERE, "jsonl"), (FITS, "data", RECORDS[:3]), (FITS, "data", [*RECORDS, 5], "data[6]"),
    (FITS, "data", [*RECORDS, {"text": "a", "label": "other"}], "data[6].label"), (FITS, "holdout", 0),
    (FITS, "jsonl", "{}", "jsonl"), (FITS, "unheard_of", 1),
]


@pytest.mark.parametrize(("path", "field", "value", "rest"), [(*one[:3], one[3:]) for one in BAD],
                         ids=[f"{one[0]}-{one[1]}-{str(one[2])[:20]}" for one in BAD])
def test_refusals(http: httpx.Client, path: str, field: str, value: Any, rest: tuple[Any, ...]) -> None:
    body = {**GOOD[path], field: value}
    refused(http, path, {name: item for name, item in body.items() if item is not NOT_THERE}, rest, field)


def test_arithmetic() -> None:
    assert sum(probabilities([3.0, -800.0, 700.0])) == pytest.approx(1.0)
    assert probabilities([1.0, 1.0, 1.0], 0.1) == pytest.approx([1 / 3] * 3)
    assert independent([0.0, 2.0], 2.0, 1.0) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))])
    assert baseline_of([(1.0, 2.0), (3.0, 6.0)]) == (2.0, 4.0)
    assert calibration_error([(0.95, True)] * 9 + [(0.95, False)]) == pytest.approx(0.05)
    fit, held = split(10, 0.3, 7)
    assert len(held) == 3 and sorted(fit + held) == list(range(10)) and split(10, 0.3, 7) == (fit, held)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_is_found_again(true: float) -> None:
    """Labels drawn with the probabilities of a known temperature: it is found, and the error nearly goes."""
    draw = random.Random(5)
    logits = [[draw.gauss(0, 3) for _ in range(4)] for _ in range(4000)]
    truth = [draw.choices(range(4), probabilities(one, true))[0] for one in logits]
    scale = fit_single(logits[:2000], truth[:2000])
    assert scale.temperature == pytest.approx(true, rel=0.12)
    before, after = (quality_single(logits[2000:], truth[2000:], one) for one in (Scale(), scale))
    assert after.ece < 0.035 and after.nll <= before.nll + 1e-3
    assert true == 1.0 or after.ece < before.ece / 2


def test_labels_that_stand_alone_get_a_bias() -> None:
    draw = random.Random(6)
    logits = [[draw.gauss(0, 4) for _ in range(3)] for _ in range(2000)]
    truth = [[draw.random() < chance for chance in independent(one, 2.0, -1.5)] for one in logits]
    scale = fit_multi(logits[:1000], truth[:1000])
    assert (scale.temperature, scale.bias) == (pytest.approx(2.0, rel=0.2), pytest.approx(-1.5, abs=0.3))
    before, after = (quality_multi(logits[1000:], truth[1000:], one) for one in (Scale(), scale))
    assert after.ece < before.ece


def test_moods(http: httpx.Client) -> None:
    body = {"model": MODEL, "input": [text for text, _ in KNOWN], "labels": MOODS}
    answer = http.post(CLASSES, json=body).json()
    found = [result["label"] for result in answer["results"]]
    assert [one["label"] for one in found] == [MOODS[mood] for _, mood in KNOWN]
    for one in found:
        assert sum(one["scores"].values()) == pytest.approx(1.0) and set(one["scores"]) == set(MOODS)
    flat = http.post(CLASSES, json={**body, "temperature": 1000}).json()["results"][0]["label"]["scores"]
    assert flat["positive"] == pytest.approx(0.5, abs=0.02)
    again = http.post(CLASSES, json=body).json()["results"][0]["label"]["scores"]
    assert again["positive"] == pytest.approx(found[0]["scores"]["positive"], abs=0.02)


def test_conversations(http: httpx.Client, url: str) -> None:
    """One message counts as its text does; of several it is told who says what. Mistral's own client reads it."""
    talk: Any = {"messages": [{"role": "user", "content": KNOWN[0][0]}]}
    both = http.post(CHATS, json={"model": MODEL, "labels": MOODS, "input": [talk, {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "How was it?"}]},
        {"role": "assistant", "content": KNOWN[1][0]}]}]}).json()["results"]
    assert [one["label"]["label"] for one in both] == MOODS
    alone = http.post(CLASSES, json={"model": MODEL, "labels": MOODS, "input": KNOWN[0][0]}).json()["results"][0]
    assert both[0]["label"]["scores"]["positive"] == pytest.approx(alone["label"]["scores"]["positive"], abs=0.02)
    listed = http.post(CHATS, json={"model": MODEL, "labels": MOODS, "messages": talk["messages"]}).json()["results"]
    assert listed[0]["label"]["label"] == "positive"
    http.post(FITS, json={"name": "talk", "model": MODEL, "data": RECORDS})
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        told = client.classifiers.classify_chat(model="classifier:talk", input=talk)
    assert told.results[0]["label"].scores["positive"] > 0.5
    assert http.delete(f"{FITS}/talk").status_code == 200


def test_labels_with_descriptions_and_examples(http: httpx.Client) -> None:
    body = {"model": MODEL, "input": "Bake the cake for forty minutes.", "multi_label": True, "threshold": 0.0,
            "labels": [{"name": "cooking", "description": "food and recipes"}, "sports"],
            "examples": [{"text": "Fry the onions.", "labels": ["cooking"]}, {"text": "It rains.", "labels": []}]}
    told = http.post(CLASSES, json=body).json()["results"][0]["label"]
    assert told["labels"] == ["cooking", "sports"]
    assert all(0 < score < 1 for score in told["scores"].values())


def test_calibrated(http: httpx.Client, url: str) -> None:
    lines = "\n".join(json.dumps(record) for record in RECORDS)
    made = http.post(FITS, json={"name": "mood", "model": MODEL, "jsonl": lines})
    assert made.status_code == 201, made.text
    told = made.json()
    assert told["fitted"] + told["held_out"] == 6 and told["temperature"] > 0 and not told["multi_label"]
    assert 0 <= told["before"]["ece"] <= 1 and 0 <= told["after"]["ece"] <= 1
    assert http.get(FITS).json() == {"classifiers": ["mood"]} and http.get(f"{FITS}/mood").json() == told
    with Mistral(api_key="none", server_url=url, timeout_ms=120_000) as client:
        answer = client.classifiers.classify(model="classifier:mood", inputs=["What a wonderful day!"])
        assert sum((answer.results[0]["label"].scores or {}).values()) == pytest.approx(1.0)
    named = http.post(CLASSES, json={"classifier": "mood", "input": "What a wonderful day!"}).json()
    assert named["calibration"]["temperature"] == told["temperature"]
    assert named["results"][0]["label"]["label"] == "positive"
    other = http.post(CLASSES, json={"classifier": "mood", "input": "x"}, headers={"X-Diptych-Caller": "other"})
    assert other.status_code == 404
    both = http.post(CLASSES, json={"classifier": "mood", "input": "a", "labels": MOODS})
    assert both.json()["error"]["param"] == "labels"
    assert http.delete(f"{FITS}/mood").status_code == 200 and http.get(f"{FITS}/mood").status_code == 404
    assert http.get(f"{FITS}/%2e%2e").status_code in (400, 404)
