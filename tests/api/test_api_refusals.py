"""What is refused, with which status, naming which field."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api_server import MAX_BODY

JOBS, LOAD, PULL = "/api/jobs", "/api/models/load", "/api/models/pull"
CHAT, COMPLETIONS, IMAGES = "/v1/chat/completions", "/v1/completions", "/v1/images/generations"
RESPONSES = "/v1/responses"
USER = [{"role": "user", "content": "hello"}]
GOOD: dict[str, dict[str, Any]] = {
    JOBS: {"model": "tiny", "prompt": "x", "width": 64, "height": 64, "steps": 1},
    LOAD: {"model": "tiny"},
    "/api/models/unload": {"model": "tiny"},
    PULL: {"model": "starter-text"},
    CHAT: {"model": "starter-text", "messages": USER, "max_tokens": 1},
    COMPLETIONS: {"model": "starter-text", "prompt": "hello", "max_tokens": 1},
    RESPONSES: {"model": "starter-text", "input": "hello", "max_output_tokens": 1},
    IMAGES: {"model": "tiny", "prompt": "x", "size": "64x64", "steps": 1},
}
HUGE = 10**30
NOT_THERE = object()

#: (path, field, value, the `param` of the refusal where it is not the field, status where it is not 400)
FIELDS: list[tuple[Any, ...]] = [
    # our own API
    (JOBS, "prompt", ""), (JOBS, "prompt", NOT_THERE), (JOBS, "prompt", None), (JOBS, "prompt", 5),
    (JOBS, "prompt", ["x"]),
    (JOBS, "prompt", "x" * 20_001), (JOBS, "negative_prompt", "x" * 20_001), (JOBS, "negative_prompt", {}),
    (JOBS, "width", 63), (JOBS, "height", 0), (JOBS, "width", 100_000), (JOBS, "width", 64.5), (JOBS, "width", "64"),
    (JOBS, "steps", 0), (JOBS, "steps", 1001), (JOBS, "steps", True), (JOBS, "steps", HUGE), (JOBS, "steps", None),
    (JOBS, "steps", 1000, "steps"), (JOBS, "guidance", 0.5), (JOBS, "guidance", 51), (JOBS, "guidance", "five"),
    (JOBS, "sampler", "Foo"), (JOBS, "sampler", 3), (JOBS, "sampler", ""), (JOBS, "schedule", "odd"),
    (JOBS, "seed", -2), (JOBS, "seed", 2**63), (JOBS, "seed", 1.5), (JOBS, "count", 0), (JOBS, "count", 65),
    (JOBS, "preview_every", -1), (JOBS, "priority", "first"), (JOBS, "kind", "video"), (JOBS, "unheard_of", 1),
    (JOBS, "model", ""), (JOBS, "model", 7), (JOBS, "model", "starter-text"), (JOBS, "model", "nothing", "model", 404),
    (LOAD, "model", NOT_THERE), (LOAD, "model", "nothing", "model", 404), (LOAD, "force", True),
    ("/api/models/unload", "model", "nothing", "model", 404), (PULL, "model", "nothing", "model", 404),
    (PULL, "stream", "yes"),
    # both kinds of text request
    *((path, *rest) for path in (CHAT, COMPLETIONS) for rest in (
        ("model", NOT_THERE), ("model", None), ("model", "nothing", "model", 404), ("model", "tiny"),
        ("temperature", 5.1),
        ("temperature", -1), ("temperature", "hot"), ("top_p", 0), ("top_p", 1.1), ("top_k", -1), ("min_p", 2),
        ("frequency_penalty", 3), ("presence_penalty", -3), ("repeat_penalty", 0), ("seed", -1), ("seed", 2**32),
        ("max_tokens", 0), ("max_tokens", 1.5), ("stop", ""), ("stop", 5), ("stop", ["a"] * 17),
        ("stop", ["a", ""], "stop[1]"),
        ("stop", [1], "stop[0]"), ("stop", "x" * 1001), ("stream", "yes"), ("stream_options", {"include_usage": True}),
        ("stream_options", 1), ("n", 0), ("n", "1"), ("n", 129), ("min_tokens", 3),
    )),
    (CHAT, "messages", NOT_THERE), (CHAT, "messages", []), (CHAT, "messages", "hello"),
    (CHAT, "messages", ["a"], "messages[0]"),
    (CHAT, "messages", [{"content": "a"}], "messages[0].role"),
    (CHAT, "messages", [{"role": "user"}], "messages[0].content"),
    (CHAT, "messages", [{"role": "robot", "content": "a"}], "messages[0].role"),
    (CHAT, "messages", [{"role": "user", "content": 5}], "messages[0].content"),
    (CHAT, "messages", [{"role": "user", "content": None}], "messages[0].content"),
    (CHAT, "messages", [*USER, {"role": "user", "content": ["a"]}], "messages[1].content[0]"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    (CHAT, "messages", [{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
     "messages[0].content[0].image_url.url"),
    (CHAT, "tool_choice", "required"), (CHAT, "response_format", "text"),
    (CHAT, "top_logprobs", 2), (CHAT, "modalities", ["text", "audio"]), (CHAT, "audio", {"voice": "x"}),
    (CHAT, "max_completion_tokens", 2, "max_tokens"),
    (CHAT, "repetition_penalty", 9), (CHAT, "chat_template", "x"),
    (COMPLETIONS, "prompt", ""), (COMPLETIONS, "prompt", NOT_THERE), (COMPLETIONS, "prompt", None),
    (COMPLETIONS, "prompt", 3),
    # pictures
    (IMAGES, "prompt", ""), (IMAGES, "prompt", NOT_THERE), (IMAGES, "prompt", "x" * 20_001), (IMAGES, "n", 0),
    (IMAGES, "n", 65),
    (IMAGES, "n", True), (IMAGES, "size", "63x64"), (IMAGES, "size", "big"), (IMAGES, "size", "0x0"),
    (IMAGES, "size", 64),
    (IMAGES, "size", "64x64x64"), (IMAGES, "size", "99999x64"), (IMAGES, "response_format", "file"),
    (IMAGES, "response_format", {}), (IMAGES, "partial_images", 2), (IMAGES, "partial_images", 4),
    (IMAGES, "stream", 1),
    (IMAGES, "model", "starter-text"), (IMAGES, "model", "nothing", "model", 404), (IMAGES, "quality", "hd"),
    (IMAGES, "style", "vivid"), (IMAGES, "background", "transparent"), (IMAGES, "output_format", "webp"),
    (IMAGES, "steps", 0), (IMAGES, "guidance", 99), (IMAGES, "sampler", "Foo"), (IMAGES, "schedule", "odd"),
    (IMAGES, "seed", -2),
    (IMAGES, "image", "data:"),
]
#: (what is sent as the body, its content type, status, param)
BODIES: list[tuple[bytes, str | None, int, str]] = [
    (b"", "application/json", 400, "body"), (b"{", "application/json", 400, "body"),
    (b"[]", "application/json", 400, "body"),
    (b"null", "application/json", 400, "body"), (b'"text"', "application/json", 400, "body"),
    (b"\xff\xfe{}", "application/json", 400, "body"), (b'{"a":"\x00"}', "application/json", 400, "body"),
    (b"[" * 100_000, "application/json", 400, "body"), (b'{"a":' * 40_000, "application/json", 400, "body"),
    (b'{"prompt":' + b"[" * 70 + b"]" * 70 + b"}", "application/json", 400, "body"),
    (b'{"prompt": NaN}', "application/json", 400, "prompt"),
    (b'{"prompt": Infinity}', "application/json", 400, "prompt"),
    (b'{"prompt": -1e999}', "application/json", 400, "prompt"),
    (b'{"prompt": [1, [NaN]]}', "application/json", 400, "prompt[1][0]"),
    (b'{"prompt": 1' + b"0" * 30 + b"}", "application/json", 400, "prompt"),
    (b'{"prompt": 1' + b"0" * 100_000 + b"}", "application/json", 400, "prompt"),
    (b'{"prompt": "\\u0000"}', "application/json", 400, "prompt"),
    (b'{"prompt": "\\ud800"}', "application/json", 400, "prompt"),
    (b'{"\\ud800": 1}', "application/json", 400, "\\ud800"),
    (b'{"a": {"\\u0000": 1}}', "application/json", 400, "a.\\x00"),
    (b"{}", None, 415, "Content-Type"), (b"{}", "text/plain", 415, "Content-Type"),
    (b"a=b", "application/x-www-form-urlencoded", 415, "Content-Type"),
    (b"{}", "application/jsonx", 415, "Content-Type"),
    (b'{"prompt": "' + b"x" * MAX_BODY + b'"}', "application/json", 413, "body"),
]


def told(answer: httpx.Response) -> dict[str, Any]:
    """The error, in OpenAI's shape and no other."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert len(body["error"]["message"]) < 1000
    assert "Traceback" not in body["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    return dict(body["error"])


@pytest.mark.parametrize("case", FIELDS, ids=lambda case: f"{case[0]} {case[1]}={str(case[2])[:20]}")
def test_field(http: httpx.Client, case: tuple[Any, ...]) -> None:
    path, field, value = case[:3]
    param = case[3] if len(case) > 3 else field
    body = {**GOOD[path], field: value}
    if (path, field, value) == (JOBS, "steps", 1000):
        body["sampler"] = "DDIM"  # which takes one step less than the schema's limit
    if value is NOT_THERE:
        del body[field]
    answer = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == (case[4] if len(case) > 4 else 400), answer.text
    error = told(answer)
    assert error["param"] == param, error
    assert error["type"] == "invalid_request_error"
    names = {"size": ("size", "width", "height")}.get(field, (param, "model"))
    assert any(name in error["message"] for name in names), error


@pytest.mark.parametrize("path", GOOD)
def test_bodies(http: httpx.Client, path: str) -> None:
    for raw, kind, status, param in BODIES:
        answer = http.post(path, content=raw, headers={"content-type": kind} if kind else {})
        assert answer.status_code == status, (raw[:40], answer.text)
        assert told(answer)["param"] == param, raw[:40]


def test_messages_name_value_and_limits(http: httpx.Client) -> None:
    def message(path: str, **fields: Any) -> str:
        return str(told(http.post(path, json={**GOOD[path], **fields}))["message"])

    assert message(JOBS, steps=1001) == "steps: input should be less than or equal to 1000, not 1001"
    assert "'Foo'" in message(JOBS, sampler="Foo")
    assert "DPM++ 2M" in message(JOBS, sampler="Foo")
    assert "(20001 characters)" in message(JOBS, prompt="y" * 20_001)
    assert "starter-text, tiny" in message(CHAT, model="nothing")
    assert "tiny" in message(CHAT, model="tiny")
    assert "prompt, negative_prompt" in message(JOBS, cfg=3)
    assert "queued" in told(http.get(JOBS, params={"state": "odd"}))["message"]


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/nothing", 404, "not_found"), ("GET", "/v1/nothing", 404, "not_found"),
    ("PUT", JOBS, 405, "method_not_allowed"),
    ("GET", CHAT, 405, "method_not_allowed"), ("GET", "/v1/models/nothing", 404, "model_not_found"),
    ("GET", "/v1/models/a/b", 404, "model_not_found"), ("GET", "/api/jobs/nothing", 404, "not_found"),
    ("GET", "/api/jobs/" + "0" * 32, 404, "not_found"), ("GET", "/api/jobs/%00", 404, "not_found"),
    ("GET", "/api/jobs/%ed%a0%80", 404, "not_found"), ("POST", "/api/jobs/nothing/cancel", 404, "not_found"),
    ("DELETE", "/api/jobs/nothing", 404, "not_found"), ("GET", "/api/jobs/nothing/events", 404, "not_found"),
    ("GET", "/api/jobs/nothing/artifacts", 404, "not_found"), ("GET", "/api/artifacts/nothing", 404, "not_found"),
    ("GET", "/api/artifacts/" + "0" * 32 + "-0", 404, "not_found"), ("GET", "/api/jobs?limit=0", 400, "invalid_value"),
    ("GET", "/api/jobs?limit=ten", 400, "invalid_value"), ("GET", "/api/jobs?limit=" + "9" * 30, 400, "invalid_value"),
    ("GET", "/api/jobs?before=nothing", 404, "not_found"), ("GET", "/api/jobs?state=odd", 400, "invalid_value"),
    ("GET", "/api/jobs?caller=%00%ff", 200, None), ("GET", "/" + "a" * 20_000, 404, "not_found"),
])
def test_addresses(http: httpx.Client, method: str, path: str, status: int, code: str | None) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status, answer.text
    if code is not None:
        assert told(answer)["code"] == code
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize(("headers", "status", "param"), [
    ({"X-Diptych-Caller": ""}, 400, "X-Diptych-Caller"), ({"X-Diptych-Caller": "x" * 101}, 400, "X-Diptych-Caller"),
    ({"X-Diptych-Caller": b"\xff"}, 400, "X-Diptych-Caller"), ({"Host": "elsewhere.example"}, 403, "Host"),
    ({"Host": "[::1"}, 403, "Host"), ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
])
def test_headers(http: httpx.Client, headers: dict[str, Any], status: int, param: str) -> None:
    answer = http.post(JOBS, json=GOOD[JOBS], headers=headers)
    assert answer.status_code == status
    assert told(answer)["param"] == param


def test_body_over_the_limit_of_unknown_length(http: httpx.Client) -> None:
    """Ten megabytes that nobody announced."""

    def pieces() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(160):
            yield b"x" * 65536

    answer = http.post(JOBS, content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert str(MAX_BODY) in told(answer)["message"]


def test_body_that_is_announced_as_enormous(server: Any) -> None:
    """Refused at once, before anything of it is sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 999999999999\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_client_that_leaves_while_it_sends(server: Any, http: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 100\r\n\r\n{")
    assert http.get("/health").status_code == 200
