"""Every error as OpenAI's clients know it: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from diptych.core.errors import DiptychError, InvalidRequest, JobFailed, RateLimited, Unauthorized
from diptych.core.events import Failed

ANTHROPIC = "/v1/messages"
"""Below this path errors have Anthropic's shape."""
ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}
SHOWN = 80
"""Characters of a value that an error message repeats."""


class UnsupportedMedia(InvalidRequest):
    """The body is of another content type or encoding than the one that is read here."""

    status = 415
    code = "unsupported_media_type"


def not_supported(param: str, what: str) -> InvalidRequest:
    """The refusal of something that would change the result and is not built yet."""
    return InvalidRequest(f"{param}: {what} is not supported yet", param=param, code="not_supported")


def shown(value: Any) -> str:
    """A value as an error message repeats it: shortened, on one line, only ASCII."""
    if isinstance(value, str):
        return ascii(value[:SHOWN]) + (f" … ({len(value)} characters)" if len(value) > SHOWN else "")
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)[:SHOWN]
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__


def path_of(parts: Iterable[Any]) -> str:
    """`messages[0].content` of `("messages", 0, "content")`; names that a client made up are shortened."""
    path = ""
    for part in parts:
        name = ascii(str(part))[1:-1][:SHOWN]
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else name
    return path


def refusal(
    error: ValidationError, names: dict[str, str] | None = None, known: Iterable[str] = (), within: str = "",
) -> InvalidRequest:
    """The first fault that pydantic found, as one sentence: field, limits, value.

    Args:
        names: what the client calls a field of the model, where that differs.
        known: fields to name where one is unknown.
        within: what the client calls the field that the model is read from.
    """
    fault: dict[str, Any] = dict(error.errors(include_url=False)[0])
    first, *rest = fault["loc"] or ("body",)
    if within:
        inner = [(names or {}).get(first, first), *rest] if fault["loc"] else []
        return _refusal({**fault, "loc": (within, *inner)}, {}, known)
    return _refusal(fault, names or {}, known)


def _refusal(fault: Any, names: dict[str, str], known: Iterable[str] = ()) -> InvalidRequest:
    first, *rest = fault["loc"] or ("body",)
    param = path_of([names.get(first, first), *rest])
    if fault["type"] == "missing":
        return InvalidRequest(f"{param} is missing", param=param, code="missing_required_parameter")
    if fault["type"] == "extra_forbidden":
        there = f"; there are: {', '.join(known)}" if known and not rest else ""
        return InvalidRequest(f"{param} is no field of this request{there}", param=param, code="unknown_parameter")
    message = str(fault["msg"]).replace("tuple", "list").replace("Tuple", "List")  # JSON's word
    return InvalidRequest(f"{param}: {message[:1].lower()}{message[1:]}, not {shown(fault['input'])}", param=param)


def failure(failed: Failed) -> DiptychError:
    """What a run's last event means for the client that waits for it."""
    return failed_error(failed.message, failed.status, failed.param, failed.code)


def failed_error(message: str, status: int | None, param: str | None = None, code: str | None = None) -> DiptychError:
    """An error with this status; one of a client's own faults (4xx) is a refused request."""
    error: DiptychError
    if status is not None and 400 <= status < 500:
        error = InvalidRequest(message, param=param, code=code)
    else:
        error = JobFailed(message, param=param, code=code)
    error.status = status if status is not None and 400 <= status < 600 else error.status
    return error


def error_response(error: DiptychError, headers: dict[str, str] | None = None) -> Response:
    # OpenAI's clients would repeat a 409 and a 5xx by themselves; what can be tried again has been before this is told.
    # ASCII: a message may repeat text that has no encoding.
    told = {"x-should-retry": "false", **(headers or {})}
    if isinstance(error, RateLimited) and error.retry_after is not None:
        told |= {"x-should-retry": "true", "retry-after": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, Unauthorized):
        told["www-authenticate"] = "Bearer"
    return ErrorResponse(error, told)


class ErrorResponse(Response):
    """An error in the shape that clients of its path know: Anthropic's or OpenAI's. Also what is refused in front of
    all routes is told in it."""

    def __init__(self, error: DiptychError, headers: dict[str, str]) -> None:
        super().__init__(json.dumps(error.body()), error.status, headers, "application/json")
        self._error, self._told = error, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope.get("path", "")).startswith(ANTHROPIC):
            shaped = Response(json.dumps(anthropic_body(self._error)), self.status_code, self._told, "application/json")
            await shaped(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def anthropic_body(error: DiptychError) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`, and OpenAI's `param` and `code` beside them."""
    kind = ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message, "param": error.param,
                                       "code": error.code}}


def install_handlers(app: FastAPI) -> None:
    """Give all errors of `app` their shape."""
    app.add_exception_handler(DiptychError, _told)
    app.add_exception_handler(ValidationError, _told_validation)
    app.add_exception_handler(RequestValidationError, _told_parameters)
    app.add_exception_handler(HTTPException, _told_http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, DiptychError)
    return error_response(error)


async def _told_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return error_response(refusal(error))


async def _told_parameters(request: Request, error: Exception) -> Response:
    """Faults of the query and the path; bodies are read elsewhere."""
    assert isinstance(error, RequestValidationError)
    fault = dict(error.errors()[0])
    fault["loc"] = tuple(fault["loc"])[1:]
    return error_response(_refusal(fault, {}))


async def _told_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    place = f"{request.method} {ascii(request.url.path)[1:-1][:200]}"
    words = {404: f"there is no {place}; the API is described at /docs", 405: f"{place}: this method is not served"}
    told = failed_error(words.get(error.status_code, f"{place}: {error.detail}"), error.status_code)
    told.code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, told.code)
    return error_response(told, dict(error.headers) if error.headers else None)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # never seen: its client has gone


async def _unexpected(request: Request, error: Exception) -> Response:
    fault = DiptychError("a fault in the server itself; its log says more", code="internal_error")
    return error_response(fault)
