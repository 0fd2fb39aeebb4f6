"""Random requests: whatever is sent, no answer is a 5xx, and every refusal has its shape."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_api_refusals import GOOD, told

from diptych.app import BODIES

FUZZ = settings(max_examples=120, deadline=None, derandomize=True, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
PATHS = [path for path in GOOD if not path.endswith(("/pull", "/unload", "/load"))]
NAMES = sorted({name for model in BODIES for name in model.model_fields} - {"model"}
               | {"tools", "response_format", "x"})
# Valid numbers stay small, so that what is accepted is also quickly done.
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(min_value=10**6), st.integers(max_value=-1), st.floats(),
                    st.sampled_from([10**20, 2**63, -(2**63), 1e308]))
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=30), st.sampled_from(["", "a" * 2000, "64x64"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def check(client: httpx.Client, answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        told(answer)
    elif answer.status_code == 201:
        client.post(f"{answer.headers['location']}/cancel")


def post(client: httpx.Client, path: str, raw: bytes) -> None:
    check(client, client.post(path, content=raw, headers={"content-type": "application/json"}))


@FUZZ
@given(path=st.sampled_from(PATHS), changes=st.dictionaries(st.sampled_from(NAMES), JUNK, min_size=1, max_size=3))
def test_fields(client: httpx.Client, path: str, changes: dict[str, Any]) -> None:
    post(client, path, json.dumps({**GOOD[path], **changes}).encode())


@FUZZ
@given(path=st.sampled_from(list(GOOD)), body=st.dictionaries(st.sampled_from([*NAMES, "model"]), JUNK, max_size=5))
def test_whole_bodies(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    post(client, path, json.dumps(body).encode())


@FUZZ
@given(path=st.sampled_from(list(GOOD)), raw=st.one_of(
    st.binary(max_size=200),
    st.text(string.printable + '{}[]":,\\u0eE-', max_size=100).map(lambda text: text.encode())))
def test_raw_bodies(client: httpx.Client, path: str, raw: bytes) -> None:
    post(client, path, raw)


@FUZZ
@given(path=st.sampled_from(["/api/jobs/{}", "/api/jobs/{}/events", "/api/artifacts/{}", "/v1/models/{}", "/{}",
                             "/api/jobs?before={}", "/api/jobs?limit={}", "/api/jobs?caller={}", "/api/{}"]),
       part=st.one_of(st.text(max_size=40).map(lambda text: "".join(f"%{byte:02x}" for byte in text.encode(
           errors="replace"))), st.binary(max_size=20).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))))
def test_addresses(client: httpx.Client, path: str, part: str) -> None:
    answer = client.get(path.format(part))
    if answer.headers.get("content-type", "").startswith("application/json"):
        check(client, answer)
    else:
        assert answer.status_code < 500


@FUZZ
@given(name=st.sampled_from(["X-Diptych-Caller", "Content-Type", "Content-Encoding", "Host", "Origin", "Expect",
                             "Range"]),
       value=st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127)))
def test_headers(client: httpx.Client, name: str, value: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (name.encode(), value.strip())]
    answer = client.post("/api/jobs", content=b"{}", headers=headers)
    assert 400 <= answer.status_code < 500
