"""What an error answer of another server means here. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from diptych.core.events import Failed

MAX_TOLD = 500
"""Characters of another server's words that are repeated."""
CODES = {
    "context_length_exceeded": "context_length_exceeded", "string_above_max_length": "context_length_exceeded",
    "content_filter": "upstream_content", "content_policy_violation": "upstream_content",
    "moderation": "upstream_content", "moderation_blocked": "upstream_content",
    "unsupported_value": "unsupported_value", "unsupported_parameter": "unsupported_value",
    "not_supported": "unsupported_value", "no_vision": "no_vision", "unsupported_schema": "unsupported_schema",
    "insufficient_memory": "insufficient_memory", "model_not_found": "upstream_missing"}
"""Codes that other servers give a 4xx, and what they are called here. A 4xx with another one is the request's fault."""
TOO_LONG = re.compile(r"context (length|window|size)|maximum (context|number of tokens)|too many tokens", re.IGNORECASE)
"""How servers without such codes say it."""


def failed(name: str, words: str, status: int, code: str, *, param: str | None = None, retry: bool = False) -> Failed:
    return Failed(message=f"upstream {name!r} {words}", status=status, code=code, param=param, retryable=retry)


def refusal(name: str, status: int, body: bytes, key: str | None) -> Failed:
    """What an answer with this status says. A key that is refused is this server's fault, not its client's.

    Args:
        key: the API key that was sent; it is never repeated, even where the other server does.
    """
    told, error = _told(status, body, key)
    code = CODES.get(str(error.get("code") or error.get("type") or ""))
    if status in (401, 403) and code != "upstream_content":
        return failed(name, "refuses the API key that this server has for it", 502, "upstream_auth")
    if status in (408, 504):
        return failed(name, f"was not in time: {told}", 504, "upstream_timeout", retry=True)
    if status in (429, 503, 529):
        return failed(name, f"has too much to do: {told}", 429 if status == 429 else 503, "upstream_overloaded",
                      retry=True)
    if status in (400, 403, 404, 409, 413, 422, 451):
        if code is None and status in (400, 413) and TOO_LONG.search(told):
            code = "context_length_exceeded"
        code = code or {404: "upstream_missing", 451: "upstream_content", 413: "too_large"}.get(
            status, "upstream_refused")
        param = error.get("param")
        return failed(name, f"refuses the request: {told}", 400 if status in (403, 409, 451) else status, code,
                      param=param if isinstance(param, str) else None)
    return failed(name, f"failed: {told}", 502 if status < 500 else 503, "upstream_failed", retry=True)


def broken(name: str, chunk: dict[str, Any], key: str | None) -> Failed:
    """What an error in the middle of a stream says. Some servers give it the status that it would have had."""
    error = chunk.get("error")
    status = error.get("code") if isinstance(error, dict) else None
    known = isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600
    return refusal(name, int(status) if known and status is not None else 502, json.dumps(chunk).encode(), key)


def _told(status: int, body: bytes, key: str | None) -> tuple[str, dict[str, Any]]:
    try:
        error = json.loads(body)["error"]
        told = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"status {status}", {}
    if key:
        told = told.replace(key, "***")
    return told[:MAX_TOLD], error if isinstance(error, dict) else {}
