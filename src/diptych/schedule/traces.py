"""Recorded plans: one JSON object per line with the request, the residents, the budget and the plan that was made. A
trace replays: the plan is a pure function of the rest of its line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diptych.schedule.arbiter import Plan, Request, Resident

MAX_BYTES = 64 * 2**20
"""A trace that has grown to this size is not written on."""

log = logging.getLogger("diptych.pool")


class Trace(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    request: Request
    residents: tuple[Resident, ...]
    budget: dict[str, int]
    plan: Plan


class TraceWriter:
    """Appends plans to a file; a plan that is the same as the one before it is left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = ""

    def write(self, request: Request, residents: list[Resident], budget: Mapping[str, int], plan: Plan) -> None:
        """A file that cannot be written is told in the log: it must not stop the work."""
        line = Trace(request=request, residents=tuple(residents), budget=dict(budget), plan=plan).model_dump_json()
        if line == self._last:
            return
        self._last = line
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                return
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            log.warning("the trace of plans cannot be written: %s", error.strerror or error)


def read_traces(path: Path) -> Iterator[Trace]:
    """Raises OSError, or pydantic's ValidationError for a line that is no trace."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield Trace.model_validate_json(line)
