"""What a user is told when a command cannot do its work: one line, and the process's exit status."""

from __future__ import annotations

PROBLEM = 1
USAGE = 2
INTERRUPTED = 130


class CliError(Exception):
    """Ends the command with `message` on standard error and `status` as its exit status."""

    def __init__(self, message: str, *, status: int = PROBLEM) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class ServerError(CliError):
    """The server refused, or could not do, what was asked; `code` is its stable word for why."""

    def __init__(self, message: str, *, http_status: int = 0, code: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
