"""Routes beside keys and their limits, clients that leave, forms and tools."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from odd_server import OddServer
from route_studio import BACK, LOCAL, RouteStudio
from servers import Served

from diptych.core.keys import DEFAULT_SCOPES
from diptych.store.database import Database
from diptych.store.keys import KeyStore

ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0.0, "max_tokens": 40}
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"],
          "additionalProperties": False}


def test_forms_and_calls_are_made_for_the_target_that_answers(studio: RouteStudio) -> None:
    """The first is another server, the second holds its answer to a grammar of its own."""
    form = {"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": SCHEMA}}
    for route, by in (("both", BACK), ("broken-first", LOCAL)):
        made = studio.http.post("/v1/chat/completions", json={**ASKED, "model": route, "response_format": form}).json()
        assert made["model"] == by, made
        assert json.loads(made["choices"][0]["message"]["content"])["colour"] in ("red", "blue")
    tools = [{"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}]
    made = studio.http.post("/v1/chat/completions", json={
        **ASKED, "model": "broken-first", "tools": tools, "tool_choice": "required"}).json()
    assert made["model"] == LOCAL, made
    call = made["choices"][0]["message"]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"])["colour"] in ("red", "blue")
    # A free grammar is more than an upstream can be asked for: that target is left out, and nobody bothers it.
    before = len(studio.odd.seen)
    made = studio.http.post("/v1/chat/completions", json={
        **ASKED, "model": "good", "response_format": {"type": "regex", "pattern": "(red|blue)"}}).json()
    assert made["model"] == LOCAL and made["choices"][0]["message"]["content"] in ("red", "blue")
    assert len(studio.odd.seen) == before


def test_a_client_that_leaves_ends_the_attempt(studio: RouteStudio) -> None:
    with studio.http.stream("POST", "/v1/chat/completions", json={
            **ASKED, "model": "gone/x", "models": ["odd/long"], "stream": True}) as response:
        lines = response.iter_lines()
        while "long0" not in next(lines):
            pass
        assert studio.odd.open == 1
    deadline = time.monotonic() + 5
    while studio.odd.open and time.monotonic() < deadline:
        time.sleep(0.05)
    assert studio.odd.open == 0
    # It told nothing about the target.
    shown = studio.http.get("/metrics").text
    assert 'diptych_route_attempts_total{model="odd/long",outcome="left"} 1.0' in shown


def test_a_calibration_needs_one_model(studio: RouteStudio) -> None:
    refused = studio.http.post("/api/classifiers", json={"name": "x", "model": "good", "labels": ["a", "b"], "data": [
        {"text": str(index), "label": "a" if index % 2 else "b"} for index in range(20)]})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "route_not_allowed", refused.text


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, OddServer]]:
    """A server with a key of 200 tokens a minute."""
    data, odd = tmp_path_factory.mktemp("route-keys") / "data", OddServer()
    data.mkdir()
    database = Database(f"sqlite:///{data / 'diptych.sqlite3'}")
    database.migrate()
    _, key = KeyStore(database).create("anna", scopes=DEFAULT_SCOPES, tokens_per_minute=200)
    database.close()
    front = Served(data, upstreams={"odd": {"url": f"{odd.url}/v1", "models": ["down", "ok", "full"]}}, routes={
        "r": {"targets": ["odd/down", "odd/ok"], "cooldown_seconds": 0}, "tired": {"targets": ["odd/full"]}})
    try:
        front.wait()
        yield front.url, key, odd
        front.stop()
    finally:
        front.process.kill()
        odd.stop()


def test_limits_of_a_key_hold_for_every_attempt(limited: tuple[str, str, OddServer]) -> None:
    url, key, odd = limited
    head = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=head, timeout=60) as http:
        made = http.post("/v1/chat/completions", json={**ASKED, "model": "r", "max_tokens": 150})
        # Both attempts held 150 tokens of 200, one after the other: the first one's were given back.
        assert made.status_code == 200 and made.json()["model"] == "odd/ok", made.text
        before = len(odd.seen)
        refused = http.post("/v1/chat/completions", json={**ASKED, "model": "r", "max_tokens": 900})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "over_tokens_limit"
        assert len(odd.seen) == before and refused.headers["x-diptych-attempts"] == "odd/down;final"
        assert http.get("/api/routes").status_code == 403
        assert "r" in {item["id"] for item in http.get("/v1/models").json()["data"]}
        assert http.post("/v1/chat/completions", json={**ASKED, "model": "tired", "max_tokens": 9}).status_code == 429
        again = http.post("/v1/chat/completions", json={**ASKED, "model": "tired", "max_tokens": 9})
        assert again.status_code == 429 and 1 <= int(again.headers["retry-after"]) <= 30
        assert again.headers["x-diptych-attempts"] == "odd/full;cooling"


def test_settings_that_make_no_sense_are_told_at_the_start(tmp_path: Path) -> None:
    from pydantic import ValidationError

    from diptych.settings import Settings

    for routes in ({"": {"targets": ["a"]}}, {"a\nb": {"targets": ["a"]}}, {"a": {}}, {"a": ["b"]}):
        with pytest.raises(ValidationError, match="routes"):
            Settings(data_dir=tmp_path, routes=routes)
