"""Errors that reach a client. Every one knows its HTTP status and names the field that was wrong."""

from __future__ import annotations

from typing import Any


class DiptychError(Exception):
    """Base of all errors that are told to a client, in OpenAI's shape.

    Args:
        message: what was wrong, the value seen and what would be right.
        param: the field that was wrong, as the client named it.
        code: a stable word a program can test for.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(DiptychError):
    """The request cannot be carried out as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthorized(DiptychError):
    """The request needs an API key and has none that is valid."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(DiptychError):
    """What was asked for is not allowed to this caller, or from where the request comes."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class RateLimited(DiptychError):
    """The caller has used up a limit for now.

    Args:
        retry_after: seconds until the same request can pass; None: it never will.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, retry_after: float | None, param: str | None = None, code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after


class NotFound(DiptychError):
    """No such model, job or artifact."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(DiptychError):
    """The thing asked for is in a state that does not allow it."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(DiptychError):
    """The body, prompt or picture is over a limit."""

    status = 413
    type = "invalid_request_error"
    code = "too_large"


class Unavailable(DiptychError):
    """The model could not be served just now: its runner did not start, died, or did not answer in time."""

    status = 503
    type = "server_error"
    code = "unavailable"


class JobFailed(DiptychError):
    """A job ended without its result; the message carries the engine's reason."""

    status = 503
    type = "server_error"
    code = "job_failed"
