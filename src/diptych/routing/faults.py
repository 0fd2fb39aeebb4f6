"""Why a target did not answer, and whether another may. Pure.

    outage    it cannot be reached, died, is not there, answered 5xx or with nonsense, or refuses our API key
    overload  it has too much to do: 429, 503, 529 of another server, a full queue
    timeout   it did not connect, or gave no first token, in time
    refusal   it lives and does not answer *this* request, where another model might: too long for its context, too
              large for the memory, content it will not speak about, a feature it has not

Everything else is the request's own fault (or its caller's limit), and is told at once: every target would say the
same.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.errors import DiptychError, InvalidRequest, RateLimited, Unavailable
from diptych.core.events import Failed
from diptych.core.routes import Fault

OVERLOADED = frozenset({"upstream_overloaded"})
MISSING = frozenset({"model_not_found", "model_damaged", "upstream_missing", "not_installed"})
"""A target that is not there, whatever is asked of it."""
REFUSALS = frozenset({
    "context_length_exceeded", "insufficient_memory", "unsupported_value", "not_supported", "no_vision",
    "upstream_content", "content_filter", "template_refused", "unsupported_schema", "invalid_output", "too_large",
    "grammar_failed"})
"""Codes of what one model refuses, or fails at, and another may do."""
ENDING = frozenset({"server_ending"})
"""This server ends: nobody is asked any more."""


@dataclass(frozen=True)
class Failure:
    """What went wrong with one target. `fault` is None where no other target is asked."""

    fault: Fault | None
    message: str
    status: int
    code: str | None = None
    param: str | None = None

    def event(self) -> Failed:
        return Failed(message=self.message, status=self.status, code=self.code, param=self.param)

    def error(self) -> DiptychError:
        """With the status of this failure."""
        kind = InvalidRequest if self.status < 500 else Unavailable
        error = kind(self.message, param=self.param, code=self.code)
        error.status = self.status
        return error


def fault_of(status: int, code: str | None) -> Fault | None:
    """The kind of a fault with this HTTP status and code."""
    if code in ENDING:
        return None
    if code in MISSING:
        return "outage"
    if code in REFUSALS or status in (413, 451):
        return "refusal"
    if code in OVERLOADED or status in (429, 529):
        return "overload"
    if status in (408, 504):
        return "timeout"
    return "outage" if status >= 500 else None


def failure_of(failed: Failed) -> Failure:
    """Of a run that ended with `failed`."""
    return Failure(fault_of(failed.status, failed.code), failed.message, failed.status, failed.code, failed.param)


def failure_of_error(error: DiptychError) -> Failure:
    """Of what was raised. A limit of the caller's own key is no fault of a target."""
    fault = None if isinstance(error, RateLimited) else fault_of(error.status, error.code)
    return Failure(fault, error.message, error.status, error.code, error.param)


def unfit(error: DiptychError) -> Failure:
    """Of a target that was refused before it was asked: what one model cannot do, another may. Where all refuse, the
    first one's words are told."""
    found = failure_of_error(error)
    fault: Fault | None = "refusal" if isinstance(error, InvalidRequest) else found.fault
    return Failure(fault, error.message, error.status, error.code, error.param)


def together(name: str, failures: list[tuple[str, Failure]]) -> Failure:
    """What a client is told when none of the targets answered.

    Args:
        name: of the route, as the client named it.
        failures: in the order of the attempts, at least one.

    One failure alone is told as it is. Where all refused, the first refusal is: a request's faults come as if there
    were no route. Else 429 where all were overloaded, 504 where none was in time, and 503.
    """
    first = failures[0][1]
    if len(failures) == 1:
        return first
    if all(failure.status < 500 and failure.fault == "refusal" for _, failure in failures):
        return first
    faults = {failure.fault for _, failure in failures}
    status = 429 if faults == {"overload"} else 504 if faults == {"timeout"} else 503
    told = "; ".join(f"{model}: {failure.message}" for model, failure in failures)
    return Failure(None, f"none of the {len(failures)} models of {name!r} answered. {told}", status, "route_failed")


def broken_off(failure: Failure) -> Failed:
    """Of an answer that ended in the middle, after its first part was told."""
    return Failed(
        message=f"the answer broke off: {failure.message}. It is not continued by another model, because its beginning "
        "has been told already; ask again", status=failure.status if failure.status >= 500 else 503,
        code=failure.code or "answer_broken_off")
