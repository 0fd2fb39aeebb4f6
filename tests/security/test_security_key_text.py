"""The text of a key: its form, its hash, and that logs do not show it."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime, timedelta, timezone

import pytest

from diptych.api.policy import needed_scope
from diptych.core.keys import ApiKey, hashed, is_key_name, key_id, matches, new_key_id, new_key_text, redacted
from diptych.core.logs import JsonFormatter, TextFormatter


def test_form_and_hash() -> None:
    id = new_key_id()
    first, second = new_key_text(id), new_key_text(id)
    assert first != second
    assert key_id(first) == key_id(second) == id
    now = datetime.now(timezone.utc)
    key = ApiKey(id=id, name="ann", secret_sha256=hashed(first), scopes=frozenset({"chat"}), created_at=now,
                 expires_at=now + timedelta(hours=1))
    assert matches(first, key)
    assert not matches(second, key)
    assert not matches(first + "x", key)
    assert (key.state(now), key.state(now + timedelta(hours=2))) == ("valid", "expired")
    assert key.secret_sha256 not in repr(key) + key.model_dump_json()


@pytest.mark.parametrize("text", ["", "dk_", "sk-abc", "dk_0123456789ab_short", "DK_0123456789ab_" + "x" * 43,
                                  "dk_0123456789ab_" + "x" * 43 + "\n", "dk_0123456789ab_" + "ü" * 43])
def test_what_is_no_key(text: str) -> None:
    assert key_id(text) is None


def test_names() -> None:
    assert all(map(is_key_name, ("a", "ann", "ann@studio", "x" * 100, "a-b_c.d")))
    assert not any(map(is_key_name, ("", "local", "LOCAL", "a b", "-a", "a-", "x" * 101, "a/b", "a\n", "ü")))


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_logs_show_no_key(formatter: logging.Formatter) -> None:
    text = new_key_text(new_key_id())
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"bad header {text}")
    except ValueError:
        logger.exception("seen %s twice: %s", text, {"authorization": f"Bearer {text}"})
    assert text.split("_", 2)[2] not in out.getvalue()
    assert text.split("_")[1] in out.getvalue()
    if isinstance(formatter, JsonFormatter):
        json.loads(out.getvalue())
    assert redacted("no key at all") == "no key at all"


@pytest.mark.parametrize(("method", "path", "scope"), [
    ("GET", "/health", None), ("POST", "/health", "admin"), ("GET", "/docs", None), ("GET", "/docs/x", "admin"),
    ("GET", "/v1/models", "models:read"), ("GET", "/v1/models/a/b", "models:read"), ("POST", "/v1/models", "chat"),
    ("POST", "/v1/images/edits", "images"), ("POST", "/v1/messages", "chat"), ("POST", "/v1/files", "admin"),
    ("POST", "/api/jobs", "images"), ("POST", "/api/jobs/x/cancel", "jobs"), ("GET", "/api/jobs/x/events/ws", "jobs"),
    ("GET", "/api/artifacts/x", "jobs"), ("POST", "/api/artifacts/x", "admin"), ("GET", "/api/models", "models:read"),
    ("POST", "/api/models/load", "models:write"), ("GET", "/api/system", ""), ("GET", "/", "admin"),
    ("GET", "", "admin"),
    ("GET", "/v1x", "admin"), ("GET", "/api/jobsx", "admin"), ("GET", "//v1/models", "admin"),
    ("GET", "/V1/models", "admin"), ("POST", "/sdapi/v1/txt2img", "images"), ("GET", "/metrics", "metrics"),
])
def test_policy(method: str, path: str, scope: str | None) -> None:
    assert needed_scope(method, path) == scope
