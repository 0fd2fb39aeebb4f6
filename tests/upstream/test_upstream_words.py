"""What other servers say when they refuse, and what becomes of it: also that a key is never repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diptych.routing.faults import failure_of
from diptych.runners.upstream_faults import broken, refusal

KEY = "sk-0123456789abcdef"


def said(status: int, **error: Any) -> Any:
    return refusal("other", status, json.dumps({"error": {"message": "because", **error}}).encode(), KEY)


@pytest.mark.parametrize(("status", "error", "told", "code", "fault"), [
    (400, {}, 400, "upstream_refused", None), (422, {"code": "bad"}, 422, "upstream_refused", None),
    (409, {}, 400, "upstream_refused", None),
    (400, {"code": "context_length_exceeded"}, 400, "context_length_exceeded", "refusal"),
    (400, {"message": "This model's maximum context length is 8 tokens"}, 400, "context_length_exceeded", "refusal"),
    (400, {"code": "content_policy_violation"}, 400, "upstream_content", "refusal"),
    (403, {"code": "moderation"}, 400, "upstream_content", "refusal"), (451, {}, 400, "upstream_content", "refusal"),
    (400, {"code": "unsupported_parameter"}, 400, "unsupported_value", "refusal"),
    (400, {"code": "insufficient_memory"}, 400, "insufficient_memory", "refusal"),
    (413, {}, 413, "too_large", "refusal"), (404, {}, 404, "upstream_missing", "outage"),
    (401, {}, 502, "upstream_auth", "outage"), (403, {}, 502, "upstream_auth", "outage"),
    (402, {}, 502, "upstream_failed", "outage"), (500, {}, 503, "upstream_failed", "outage"),
    (429, {}, 429, "upstream_overloaded", "overload"), (503, {}, 503, "upstream_overloaded", "overload"),
    (529, {}, 503, "upstream_overloaded", "overload"), (504, {}, 504, "upstream_timeout", "timeout"),
    (408, {}, 504, "upstream_timeout", "timeout")])
def test_what_a_status_means(status: int, error: dict[str, Any], told: int, code: str, fault: str | None) -> None:
    failed = said(status, **error)
    assert (failed.status, failed.code, failure_of(failed).fault) == (told, code, fault)


def test_an_error_in_a_stream_has_the_status_that_it_would_have_had() -> None:
    assert broken("other", {"error": {"message": "x", "code": 429}}, None).status == 429
    assert broken("other", {"error": {"message": "x", "code": "boom"}}, None).status == 503
    assert broken("other", {"error": "x"}, None).code == "upstream_failed"
    assert broken("other", {"error": {"message": "x", "code": True}}, None).status == 503


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503, 504])
def test_a_key_is_never_repeated(status: int) -> None:
    failed = said(status, message=f"Incorrect API key provided: {KEY}.", param="key")
    assert KEY not in failed.message
    assert KEY not in broken("other", {"error": {"message": KEY, "code": status}}, KEY).message


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"error": 5}', b'{"error": {"message": {}}}', b"\xff",
                                  b"[" * 100_000])
def test_words_that_are_no_error_object(body: bytes) -> None:
    assert refusal("other", 500, body, KEY).status == 503
    assert refusal("other", 400, body, KEY).status == 400
