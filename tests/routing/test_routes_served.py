"""Routes of a real server over real processes and sockets that refuse, hang, die and come back."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from typing import Any

import httpx
import psutil
import pytest
from route_studio import BACK, BACK_KEY, LOCAL, ODD_KEY, ROUTES, RouteStudio


def body(model: str | None, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0.0, "max_tokens": 8, **more}
    return asked if model is None else {"model": model, **asked}


def chat(studio: RouteStudio, model: str | None, **more: Any) -> httpx.Response:
    return studio.http.post("/v1/chat/completions", json=body(model, **more))


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]


def target(studio: RouteStudio, route: str, model: str) -> dict[str, Any]:
    shown = studio.http.get(f"/api/routes/{route}").json()
    return next(one for one in shown["targets"] if one["model"] == model)


def test_a_route_is_a_model_and_says_who_answered(studio: RouteStudio) -> None:
    listed = {item["id"]: item for item in studio.http.get("/v1/models").json()["data"]}
    assert set(ROUTES) <= set(listed) and listed["good"]["owned_by"] == "route"
    assert studio.http.get("/v1/models/good").json()["panel"] == "text"
    made = chat(studio, "good")
    assert content(made) == "ok0 ok1 ok2 " and made.json()["model"] == "odd/ok"
    assert made.headers["x-diptych-model"] == "odd/ok" and made.headers["x-diptych-attempts"] == "odd/ok;ok"
    plain = chat(studio, LOCAL)
    assert plain.headers["x-diptych-model"] == LOCAL and "x-diptych-attempts" not in plain.headers


@pytest.mark.parametrize(("way", "fault"), [
    ("full", "overload"), ("busy", "overload"), ("down", "outage"), ("filter", "refusal"), ("short", "refusal"),
    ("locked", "outage"), ("ghost", "outage")])
def test_the_next_one_answers(way: str, fault: str, studio: RouteStudio) -> None:
    made = chat(studio, f"from-{way}")
    assert content(made) == "ok0 ok1 ok2 " and made.json()["model"] == "odd/ok"
    assert made.headers["x-diptych-attempts"] == f"odd/{way};{fault}, odd/ok;ok"
    with studio.http.stream("POST", "/v1/chat/completions", json=body(f"from-{way}", stream=True)) as response:
        assert response.headers["x-diptych-model"] == "odd/ok"
        assert {chunk["model"] for chunk in chunks_of(response)} == {"odd/ok"}


def test_a_wrong_request_is_nobody_else_s(studio: RouteStudio) -> None:
    before = len(studio.odd.seen)
    refused = chat(studio, "from-wrong")
    assert refused.status_code == 400 and "wrong says no" in refused.json()["error"]["message"]
    assert refused.headers["x-diptych-attempts"] == "odd/wrong;final" and len(studio.odd.seen) == before + 1
    # What this server can see itself, it asks nobody about.
    refused = chat(studio, "good", response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": 7}}})
    assert refused.status_code == 400 and len(studio.odd.seen) == before + 1


def test_over_three_servers(studio: RouteStudio) -> None:
    """The first is down; the second is a whole Diptych; the third, this one, is not needed."""
    made = chat(studio, "both")
    assert made.json()["model"] == BACK and made.headers["x-diptych-attempts"] == f"odd/down;outage, {BACK};ok"
    assert content(made) == content(chat(studio, LOCAL))


@pytest.mark.parametrize("stream", [False, True])
def test_models_of_the_request(stream: bool, studio: RouteStudio) -> None:
    made = chat(studio, "gone/x", models=["odd/full", "good"], stream=stream)
    assert made.headers["x-diptych-model"] == "odd/ok"
    told = made.headers["x-diptych-attempts"]  # the second time both are left alone
    assert re.fullmatch("gone/x;(outage|cooling), odd/full;(overload|cooling), odd/ok;ok", told), told
    alone = chat(studio, None, models=["nothing-of-this-name", LOCAL])
    assert alone.json()["model"] == LOCAL
    assert alone.headers["x-diptych-attempts"] == f"nothing-of-this-name;unfit, {LOCAL};ok"
    assert chat(studio, "nothing", models=["nope"]).status_code == 404
    for wrong in ([], "odd/ok", [5], [""], ["a"] * 40):
        refused = chat(studio, None, models=wrong)
        assert refused.status_code == 400 and "model" in refused.json()["error"]["param"], wrong
    chat(studio, LOCAL)


def test_a_stream_that_breaks_is_not_begun_again(studio: RouteStudio) -> None:
    before = len(studio.odd.seen)
    with studio.http.stream("POST", "/v1/chat/completions", json=body("cutting", stream=True)) as response:
        text = response.read().decode()
    assert "cut0" in text and "ok0" not in text and "[DONE]" not in text
    assert "not continued by another model" in text and len(studio.odd.seen) == before + 1
    # Wanted whole, nothing was told yet: the other one answers it from the beginning.
    assert content(chat(studio, "cutting")) == "ok0 ok1 ok2 "


def test_an_upstream_that_is_killed_in_the_middle(studio: RouteStudio) -> None:
    from odd_server import OddServer
    from servers import Served

    odd = OddServer()
    front = Served(studio.front.log.parent / "killed" / "data", upstreams={
        "odd": {"url": f"{odd.url}/v1", "models": ["long", "ok"]}}, routes={
            "r": {"targets": ["odd/long", "odd/ok"], "cooldown_seconds": 60}})
    try:
        front.wait()
        with httpx.stream("POST", f"{front.url}/v1/chat/completions", json=body("r", stream=True), timeout=60) as made:
            text = ""
            for line in made.iter_lines():
                text += line
                if "long3" in line:
                    odd.process.kill()
        assert "not continued" in text and '"code"' in text and "[DONE]" not in text
        assert text.count("long0") == 1 and "ok0" not in text
        state = httpx.get(f"{front.url}/api/routes/r").json()["targets"][0]
        assert state["state"] == "cooling" and state["outcomes"] == {"broken-off": 1} and state["cooling_seconds"] > 50
        refused = httpx.post(f"{front.url}/v1/chat/completions", json=body("r"), timeout=60)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "route_failed"
        assert refused.headers["x-diptych-attempts"] == "odd/long;cooling, odd/ok;outage"
        front.stop()
    finally:
        front.process.kill()
        odd.stop()


def test_tokens_have_their_time(studio: RouteStudio) -> None:
    began = time.monotonic()
    made = chat(studio, "timing")
    assert content(made) == "ok0 ok1 ok2 " and time.monotonic() - began < 6
    assert made.headers["x-diptych-attempts"] == "odd/hang;timeout, odd/drip;timeout, odd/late;timeout, odd/ok;ok"
    deadline = time.monotonic() + 5  # the requests that were given up are closed
    while studio.odd.open and time.monotonic() < deadline:
        time.sleep(0.05)
    assert studio.odd.open == 0


def test_a_target_that_fails_is_left_alone_and_found_again(studio: RouteStudio) -> None:
    studio.odd.behave(turning="busy")
    assert chat(studio, "turns").headers["x-diptych-attempts"] == "odd/turning;overload, odd/ok;ok"
    shown = target(studio, "turns", "odd/turning")
    assert shown["state"] == "cooling" and "has too much to do" in shown["last_fault"] and shown["failures"] == 1
    before = sum(model == "turning" for model, _ in studio.odd.seen)
    for _ in range(3):
        assert chat(studio, "turns").headers["x-diptych-attempts"] == "odd/turning;cooling, odd/ok;ok"
    assert sum(model == "turning" for model, _ in studio.odd.seen) == before
    studio.odd.behave(turning="ok")
    time.sleep(1.6)
    assert target(studio, "turns", "odd/turning")["state"] == "half-open"
    assert chat(studio, "turns").json()["model"] == "odd/turning"
    shown = target(studio, "turns", "odd/turning")
    assert shown["state"] == "ready" and shown["failures"] == 0 and shown["outcomes"] == {"overload": 1, "ok": 1}


def test_nobody_is_left(studio: RouteStudio) -> None:
    refused = chat(studio, "refused")
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "upstream_content"
    dead = chat(studio, "dead")
    error = dead.json()["error"]
    assert dead.status_code == 503 and error["code"] == "route_failed"
    assert "gone/x" in error["message"] and "odd/hang" in error["message"]


def test_a_model_that_cannot_be_loaded_is_backed_by_another(studio: RouteStudio) -> None:
    made = chat(studio, "broken-first")
    assert content(made) and made.json()["model"] == LOCAL


def test_a_local_runner_that_dies_is_backed_by_another(studio: RouteStudio) -> None:
    """Every runner is killed as soon as it is there, until another target has answered."""
    over = threading.Event()
    process = psutil.Process(studio.front.process.pid)

    def hunt() -> None:
        while not over.wait(0.02):
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        made = chat(studio, "local-first")
    finally:
        over.set()
        hunter.join()
    assert content(made) == "ok0 ok1 ok2 "
    assert made.headers["x-diptych-attempts"] == f"{LOCAL};outage, odd/ok;ok"
    assert chat(studio, "local-first").json()["model"] == LOCAL


def test_every_text_endpoint_goes_through_routes(studio: RouteStudio) -> None:
    http = studio.http
    said = http.post("/v1/responses", json={"model": "from-down", "input": "Hi"})
    assert said.json()["model"] == "odd/ok", said.text
    said = http.post("/v1/messages", json={"model": "from-down", "max_tokens": 9,
                                           "messages": [{"role": "user", "content": "Hi"}]})
    assert said.json()["model"] == "odd/ok" and said.json()["content"][0]["text"] == "ok0 ok1 ok2 "
    refused = http.post("/v1/messages", json={"model": "dead", "max_tokens": 9,
                                              "messages": [{"role": "user", "content": "Hi"}]})
    assert refused.json()["type"] == "error" and refused.status_code == 503
    for path in ("/v1/completions", "/v1/fim/completions"):
        said = http.post(path, json={"model": "gone/x", "models": [LOCAL], "prompt": "one two", "max_tokens": 4})
        assert said.status_code == 200 and said.json()["model"] == LOCAL, said.text
    said = http.post("/api/translate", json={"model": "from-down", "text": "Hi", "target": "French"})
    assert said.json()["model"] == "odd/ok", said.text
    said = http.post("/api/agents/run", json={"model": "from-down", "input": "Hi", "tools": []})
    assert said.json()["output"].startswith("ok0") and said.headers["x-diptych-model"] == "odd/ok", said.text


def test_vectors_only_of_one_model(studio: RouteStudio) -> None:
    http = studio.http
    said = http.post("/v1/embeddings", json={"model": "vectors", "input": "a"})
    assert said.status_code == 200 and said.json()["model"] == "odd/ok", said.text
    assert said.headers["x-diptych-attempts"] == "odd/down;outage, odd/ok;ok"
    refused = http.post("/v1/embeddings", json={"model": "good", "input": "a"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "vectors_differ"


def test_scores_come_from_one_model_that_can(studio: RouteStudio) -> None:
    """Other servers tell no likelihoods of options: that is refused there, and this one does it."""
    said = studio.http.post("/v1/rerank", json={"model": "good", "query": "cats", "documents": ["a cat", "a car"]})
    assert said.status_code == 200 and said.json()["model"] == LOCAL, said.text
    said = studio.http.post("/v1/classifications", json={
        "model": "good", "input": "I like it", "labels": ["good", "bad"]})
    assert said.status_code == 200 and said.json()["model"] == LOCAL, said.text
    assert said.headers["x-diptych-attempts"] == f"odd/ok;refusal, {LOCAL};ok"


def test_shares(studio: RouteStudio) -> None:
    asked = [chat(studio, "shares").json()["model"] for _ in range(24)]
    assert 2 <= asked.count("odd/ok") <= 22 and set(asked) == {"odd/ok", "odd/ok2"}


def test_keys_go_where_they_belong(studio: RouteStudio) -> None:
    chat(studio, "both")
    told = [chat(studio, route).text for route in ("from-wrong", "refused", "dead", "from-locked")]
    seen = {key for _, key in studio.odd.seen}
    assert seen == {f"Bearer {ODD_KEY}"}
    shown = studio.http.get("/api/routes").text
    for text in (*told, shown):
        assert ODD_KEY not in text and BACK_KEY not in text
    assert "***" in told[0]


def test_routes_that_are_not_there(studio: RouteStudio) -> None:
    refused = studio.http.get("/api/routes/nothing")
    assert refused.status_code == 404 and "good" in refused.json()["error"]["message"]
    shown = {route["name"]: route for route in studio.http.get("/api/routes").json()["routes"]}
    assert set(shown) == set(ROUTES) and shown["shares"]["strategy"] == "weighted"
