"""The end of an answer that does not have its form."""

from __future__ import annotations

from diptych.core.events import Failed

INVALID = "invalid_output"
"""Code of the failure of an answer that does not pass its check."""


def invalid(fault: str) -> Failed:
    return Failed(message=f"the answer does not have the form that was asked for: {fault}", status=422, code=INVALID)
