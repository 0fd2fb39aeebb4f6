"""Wildcards: `__animals/cats__` draws a line of `animals/cats.txt` in the folder of wildcards."""

from __future__ import annotations

import difflib
from pathlib import Path

from diptych.core.errors import InvalidRequest
from diptych.core.paths import inside
from diptych.prompts.choices import Option, option_of

MAX_BYTES = 4 * 1024 * 1024
"""Of one file."""
MAX_LISTED = 10_000
SUFFIX = ".txt"


class WildcardFiles:
    """Values by name, each file read once in the life of this object; blocking.

    A file has one value a line, in the prompt language (`2::red` counts twice); empty lines and those that begin with
    `#` are left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[Option, ...]] = {}

    def values(self, name: str, param: str = "prompt") -> tuple[Option, ...]:
        """Raises InvalidRequest: there is no such file, it cannot be read, or it has no values."""
        if name not in self._read:
            self._read[name] = self._load(name, param)
        return self._read[name]

    def names(self) -> list[str]:
        """All that there are, sorted."""
        found: list[str] = []
        for path in self._folder.rglob(f"*{SUFFIX}"):
            found.append(path.relative_to(self._folder).with_suffix("").as_posix())
            if len(found) >= MAX_LISTED:
                break
        return sorted(found)

    def _load(self, name: str, param: str) -> tuple[Option, ...]:
        path = inside(self._folder, name + SUFFIX, param=param)
        try:
            if not path.is_file():
                raise self._unknown(name, param)
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            text = raw.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise InvalidRequest(
                f"{param} uses wildcard {name!r}, whose file cannot be read: {reason}", param=param,
                code="wildcard_unreadable") from None
        if len(raw) > MAX_BYTES:
            raise InvalidRequest(
                f"{param} uses wildcard {name!r}, whose file has more than {MAX_BYTES} bytes", param=param,
                code="wildcard_unreadable")
        lines = [line.strip() for line in text.splitlines()]
        options = tuple(option_of(line) for line in lines if line and not line.startswith("#"))
        if not options:
            raise InvalidRequest(
                f"{param} uses wildcard {name!r}, whose file has no values", param=param, code="wildcard_unreadable")
        return options

    def _unknown(self, name: str, param: str) -> InvalidRequest:
        names = self.names()
        near = difflib.get_close_matches(name, names, 3, 0.5) or names[:5]
        known = f"there are {', '.join(near)}{' …' if len(names) > len(near) else ''}" if near else "there are none"
        return InvalidRequest(
            f"{param} uses wildcard {name[:100]!r}, but there is no file wildcards/{name[:100]}{SUFFIX} in the data "
            f'folder; {known}; write \\__ or set prompt_syntax to "plain" if it is meant as text', param=param,
            code="unknown_wildcard")
