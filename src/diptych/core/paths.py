"""Names from outside, kept inside a folder. Standard library only, for the gateway and the engines."""

from __future__ import annotations

import re
from pathlib import Path

from diptych.core.errors import InvalidRequest

MAX_NAME, MAX_PATH = 255, 4096
"""Bytes of one name, and of all names together."""
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f<>:\"|?*\\]")
"""Control characters, and what Windows gives a meaning: drives and streams (`:`), wildcards, other separators."""
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
"""Names that mean a device on Windows, in every folder and with any ending."""


def inside(root: Path, name: str, *, param: str) -> Path:
    """The path of `name` below `root`, with all links followed; it need not exist.

    The rules are the same on every system, so that a name that works on one works on all. A link that leads out of
    `root` is refused like a name that does; `root` itself may be a link.

    Args:
        name: `/` separates folders.
        param: what the client calls the field, for the error.

    Raises:
        InvalidRequest: it is empty, absolute, leads out, or is no file name somewhere.
    """
    reason = _fault(name)
    if reason is None:
        try:
            base = root.resolve()
            path = (base / name).resolve()
        except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle, before Python 3.13
            reason = "cannot be followed"
        else:
            if path != base and path.is_relative_to(base):
                return path
            reason = "leads out of its folder"
    raise InvalidRequest(f"{param} {name[:100]!a} {reason}", param=param, code="invalid_path")


def _fault(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is no Unicode text"
    if not name:
        return "is empty"
    if size > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    if _FORBIDDEN.search(name):
        return "contains a character that file names must not have"
    if name.startswith("/"):
        return "is absolute; it must be relative"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"has the part {part!r}, which names no file"
        if part.endswith((".", " ")) or part.startswith(" "):
            return f"has the part {part[:100]!a}, which begins or ends with a space or ends with a dot"
        if _DEVICES.fullmatch(part.rstrip(". ")):
            return f"has the part {part[:100]!a}, which means something else on some systems"
        if len(part.encode()) > MAX_NAME:
            return f"has a part longer than {MAX_NAME} bytes"
    return None
