"""Structured logs of the gateway and its runners: a line carries the request, job, runner and model it is about.

A line never breaks into two, whatever a message contains, and holds no prompt: log ids, names and numbers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TextIO

from diptych.core.keys import redacted

LogFormat = Literal["text", "json"]
FIELDS = ("request_id", "job_id", "run_id", "runner_id", "model")
"""What `bound` and a record's `extra` take. `fields` of `extra` may have more, such as an access line's status."""
FILE_BYTES = 5_000_000
FILES_KEPT = 3
NOISY = ("httpx", "httpcore", "alembic")
"""Libraries whose "info" is of no use to an operator."""

_bound: ContextVar[MappingProxyType[str, str]] = ContextVar("diptych_log_fields", default=MappingProxyType({}))


@contextlib.contextmanager
def bound(**fields: str | None) -> Iterator[None]:
    """Every line that is logged inside, and in tasks that begin inside, carries these fields (None: left out)."""
    known = {**_bound.get(), **{name: value for name, value in fields.items() if value is not None}}
    token = _bound.set(MappingProxyType(known))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a generator that is closed from another task's context
            _bound.reset(token)


def bound_field(name: str) -> str | None:
    """A field of the innermost `bound` around the caller."""
    return _bound.get().get(name)


def run_fields(run_id: str) -> dict[str, str]:
    """What a runner's line about a run carries: an attempt of a job is named JOB-ATTEMPT."""
    job, dash, attempt = run_id.rpartition("-")
    return {"run_id": run_id, "job_id": job} if dash and attempt.isdecimal() else {"run_id": run_id}


def keep_fields(record: logging.LogRecord, always: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Filter of every handler: notes what is known about the line."""
    known: dict[str, Any] = {**always, **_bound.get()}
    for name in FIELDS:
        if isinstance(value := getattr(record, name, None), str):
            known[name] = value
    given = getattr(record, "fields", None)
    record.diptych_fields = {**known, **given} if isinstance(given, dict) else known
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: timestamp (UTC), level, logger, message, the fields that are known, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": _moment(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **getattr(record, "diptych_fields", {})}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _gist(record.exc_info[1])
            line["exception"] = self.formatException(record.exc_info)
        return redacted(json.dumps(line, default=str))  # ASCII: no line separator of Unicode gets through


class TextFormatter(logging.Formatter):
    """For a person: time, level, logger, message, the fields in brackets; a traceback is indented below."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "diptych_fields", {})
        shown = " ".join(f"{name}={_one_line(str(fields[name]))}" for name in FIELDS if name in fields)
        line = f"{_moment(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}"
        line += f" [{shown}]" if shown else ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(f"\n    {text}" for text in self.formatException(record.exc_info).splitlines())
            line += f": {_one_line(_gist(record.exc_info[1]))}{trace}"
        return redacted(line)


class _Console(logging.StreamHandler[TextIO]):
    """Standard error. With `own_file` it is a file that only this process appends to: that begins anew when it has
    grown too long."""

    own_file = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.own_file:
            with contextlib.suppress(OSError, ValueError):
                known = os.fstat(self.stream.fileno())
                if stat.S_ISREG(known.st_mode) and known.st_size > FILE_BYTES:
                    os.ftruncate(self.stream.fileno(), 0)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        return


class _File(RotatingFileHandler):
    """Loses a line rather than disturb the work: the disk may be full."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to be written
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        return


@contextlib.contextmanager
def logging_to(
    level: int, format: LogFormat, file: Path | None = None, *, own_file: bool = False, **always: str,
) -> Iterator[None]:
    """Log to standard error in this format, and as JSON into `file`, which is rotated; as before at the end.

    Args:
        own_file: standard error is a file that only this process appends to; it must not grow for ever.
        always: fields of every line, whatever thread it comes from.

    Raises:
        OSError: the file cannot be opened.
    """
    def keep(record: logging.LogRecord) -> bool:
        return keep_fields(record, always)

    console = _Console(sys.stderr)
    console.own_file = own_file
    console.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handlers: list[logging.Handler] = [console]
    if file is not None:
        handlers.append(_File(file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"))
        handlers[-1].setFormatter(JsonFormatter())
    for handler in handlers:
        handler.addFilter(keep)
    with _installed(logging.getLogger(), handlers, level):
        yield


@contextlib.contextmanager
def _installed(root: logging.Logger, handlers: Sequence[logging.Handler], level: int) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in NOISY}
    before = root.level
    root.setLevel(level)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before)
        for name, old in levels.items():
            logging.getLogger(name).setLevel(old)


def level_of(name: str) -> int | None:
    """The number of `debug`, `info`, `warning`, `error` or `critical`; None for another word."""
    found = logging.getLevelName(name.upper())
    return found if isinstance(found, int) else None


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z")


def _one_line(text: str) -> str:
    """Control characters as escapes: a client's text must not look like a line of its own, nor colour a terminal."""
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() else part.encode("unicode_escape", "backslashreplace").decode("ascii")
                   for part in text)


def _gist(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
