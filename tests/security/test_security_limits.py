"""Limits of keys on a real server: tokens, pictures, and what waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from secured import Secured, create_key, until

from diptych.api.limits import Meter, prompt_tokens
from diptych.core.events import Data, Metrics, TokenDelta
from diptych.core.specs import CompletionSpec, EmbedSpec
from diptych.store.database import Database
from diptych.store.keys import KeyStore

CHAT = "/v1/chat/completions"
LONG = {"prompt": "a red apple", "steps": 900, "count": 1, "model": "starter"}


def asked(max_tokens: int | None = 8, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Count to a hundred."}
    return {"model": "starter-text", "messages": [message], "max_tokens": max_tokens, "temperature": 0, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limits")


@pytest.fixture(scope="module")
def server(home: Path, starter_text: Path) -> Iterator[Secured]:
    create_key(home, "first")
    served = Secured(home, model_dirs=[str(starter_text.parent)], text_context=512)
    yield served
    assert served.stop() == 0
    assert "Traceback" not in served.log_file.read_text()


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_tokens_are_counted_as_they_were_used(server: Secured, home: Path) -> None:
    with server.client(create_key(home, "counter", "--tokens-per-minute", 10_000)) as http:
        answer = http.post(CHAT, json=asked(max_tokens=100, stop=["2"]))
        used = answer.json()["usage"]["total_tokens"]
        assert answer.headers["x-ratelimit-limit-tokens"] == "10000"
        assert 0 < used < 100
        until(lambda: int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"]) >= 10_000 - used)
        assert float(http.get("/v1/models").headers["x-ratelimit-reset-tokens"][:-1]) <= used * 60 / 10_000


def test_a_flood_does_not_pass(server: Secured, home: Path) -> None:
    """Each request reserves about 70 tokens of 200 before it runs: not more than two of twelve are let in at once."""
    key = create_key(home, "flood", "--tokens-per-minute", 200)
    with server.client(key) as http, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: http.post(CHAT, json=asked(max_tokens=60)), range(12)))
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(passed) + len(refused) == 12
    # what a short answer leaves unused is given back, so that a few more may follow
    assert 1 <= sum(answer.json()["usage"]["total_tokens"] for answer in passed) <= 300
    assert len(refused) >= 6
    for answer in refused:
        assert error(answer)["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-ratelimit-limit-tokens"] == "200"
        assert key not in answer.text
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.RateLimitError):
        for _ in range(5):
            client.chat.completions.create(**asked(max_tokens=60))


def test_what_can_never_pass_is_told(server: Secured, home: Path) -> None:
    with server.client(create_key(home, "small", "--tokens-per-minute", 100)) as http:
        answer = http.post(CHAT, json=asked(max_tokens=300))
        assert (answer.status_code, error(answer)["param"]) == (429, "max_tokens")
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        streamed = http.post(CHAT, json=asked(max_tokens=300, stream=True))
        assert streamed.status_code == 429
        assert http.post(CHAT, json=asked(max_tokens=None, stop=["2"])).status_code == 200  # all that there is is held


def test_a_client_that_goes_is_counted_too(server: Secured, home: Path) -> None:
    with server.client(create_key(home, "leaver", "--tokens-per-minute", 1000)) as http:
        with http.stream("POST", CHAT, json=asked(max_tokens=400, stream=True)) as answer:
            assert answer.status_code == 200
            held = int(answer.headers["x-ratelimit-remaining-tokens"])
            assert held <= 600
            for number, _ in enumerate(answer.iter_lines()):
                if number > 10:
                    break
        left = until(lambda: (now := int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"])) > 700 and now)
        assert left < 1000


def test_pictures(server: Secured, home: Path) -> None:
    """The first job keeps the runner busy; of those that wait, a cancelled one gives its pictures back."""
    with server.client(create_key(home, "painter", "--pictures-per-hour", 5)) as http:
        first = http.post("/api/jobs", json=LONG)
        assert first.headers["x-ratelimit-remaining-pictures"] == "4"
        assert http.post("/api/jobs", json={**LONG, "steps": 5000}).status_code == 400  # takes nothing
        until(lambda: http.get(f"/api/jobs/{first.json()['id']}").json()["state"] == "running", 60)
        over = http.post("/v1/images/generations", json={"prompt": "a cat", "n": 5})
        assert (over.status_code, error(over)["code"]) == (429, "rate_limit_exceeded")
        assert int(over.headers["retry-after"]) > 600
        never = http.post("/api/jobs", json={**LONG, "count": 6})
        assert (never.status_code, error(never)["param"]) == (429, "count")
        assert http.post(f"/api/jobs/{first.json()['id']}/cancel").status_code == 200
        assert http.get("/api/jobs").headers["x-ratelimit-remaining-pictures"] == "4"


def test_queue(server: Secured, home: Path) -> None:
    with server.client(create_key(home, "queuer", "--max-queued", 2)) as http:
        busy = {**LONG, "count": 16}
        jobs: list[str] = []
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: http.post("/api/jobs", json={**busy, "priority": "batch"}), range(12)))
        jobs += [answer.json()["id"] for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {error(answer)["code"] for answer in refused} == {"queue_limit"}
        states = [http.get(f"/api/jobs/{id}").json()["state"] for id in jobs]
        assert states.count("queued") <= 2
        for id in jobs:
            assert http.post(f"/api/jobs/{id}/cancel").status_code in (200, 409)
        with ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(lambda _: http.post(CHAT, json=asked(max_tokens=150)), range(8)))
        codes = [answer.status_code for answer in texts]
        assert codes.count(200) >= 2
        assert set(codes) == {200, 429}


def test_limits_outlast_the_server(home: Path, server: Secured, starter_text: Path) -> None:
    key = create_key(home, "patient", "--pictures-per-hour", 1)
    with server.client(key) as http:
        job = http.post("/api/jobs", json={**LONG, "steps": 1})
        assert job.status_code == 201
    assert server.stop() == 0
    again = Secured(home, model_dirs=[str(starter_text.parent)], text_context=512)
    try:
        with again.client(key) as http:
            assert http.post("/api/jobs", json=LONG).status_code == 429
    finally:
        assert again.stop() == 0


def test_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refilled evenly, never above the limit, also when the clock jumps; what was used in excess is owed."""
    database = Database(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    database.migrate()
    store = KeyStore(database)
    key, _ = store.create("ann", tokens_per_minute=60)
    clock = [1000.0]
    monkeypatch.setattr("diptych.store.keys.time.time", lambda: clock[0])

    def take(amount: float) -> tuple[bool, float]:
        passed, left = store.take(key, "tokens", amount, 60, 60.0)
        return passed, round(left, 6)

    assert take(50) == (True, 10)
    assert take(20) == (False, 10)
    clock[0] += 10
    assert take(20) == (True, 0)
    clock[0] -= 500  # back: nothing is gained, nothing lost
    assert take(1) == (False, 0)
    clock[0] += 1
    assert take(1) == (True, 0)
    assert store.charge(key, "tokens", 30, 60, 60.0) == -30
    clock[0] += 31
    assert take(2) == (False, 1)
    clock[0] += 1e9
    assert take(0) == (True, 60)
    assert take(-100) == (True, 60)
    database.close()


def test_what_is_counted() -> None:
    meter = Meter(7)
    assert meter.used == 0
    meter.see(TokenDelta(text="a"))
    assert meter.used == 8
    meter.see(Metrics(values={"prompt_tokens": 3, "completion_tokens": 2}))
    assert meter.used == 5
    meter = Meter(7)
    meter.see(Data(value={"vectors": [], "tokens": 11}))
    assert meter.used == 11
    assert prompt_tokens(CompletionSpec(prompt=(1, 2, 3))) == 4
    assert prompt_tokens(EmbedSpec(model="m", inputs=("abc" * 10, "é" * 15))) == 21
