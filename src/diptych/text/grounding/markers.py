"""The marks `[1]` that a model is asked to put behind what it has from passage 1: read from a stream and taken out."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARK = re.compile(r"[ \t]?\[[ ]?(\d{1,3}(?:[ ]?[,;][ ]?\d{1,3}){0,9})[ ]?\]")
_BEGUN = re.compile(r"[ \t]?(?:\[[\d ,;]{0,50})?$")


@dataclass(frozen=True)
class Note:
    """The model named the passages `numbers` (from 1) at this character of the text without marks."""

    at: int
    numbers: tuple[int, ...]


class Markers:
    """Belongs to one answer. Marks that name a passage that is not there go too; those in `code` stay."""

    def __init__(self, count: int) -> None:
        self._count, self._held, self._code = count, "", False
        self._parts: list[str] = []
        self._length = 0
        self.notes: list[Note] = []

    @property
    def text(self) -> str:
        """All that was let through."""
        return "".join(self._parts)

    def feed(self, text: str) -> str:
        """What can be told by now: a mark that may have begun is held back."""
        return self._read(self._held + text, last=False)

    def end(self, *, cut: bool = False) -> str:
        """The rest. `cut`: the text was cut off; a mark that had begun goes too."""
        held = self._held.rstrip("[0123456789 ,;") if cut and "[" in self._held else self._held
        return self._read(held, last=True)

    def _read(self, text: str, last: bool) -> str:
        begun = None if last else _BEGUN.search(text)
        end = len(text) if begun is None else begun.start()
        self._held = text[end:]
        made: list[str] = []
        position = 0
        for found in _MARK.finditer(text, 0, end):
            self._keep(made, text[position:found.start()])
            numbers = tuple(int(number) for number in re.findall(r"\d+", found[1]))
            if self._code or not all(0 < number <= max(99, self._count) for number in numbers):
                self._keep(made, found[0])
            else:
                self.notes.append(Note(self._length, tuple(n for n in numbers if n <= self._count)))
            position = found.end()
        self._keep(made, text[position:end])
        return "".join(made)

    def _keep(self, made: list[str], text: str) -> None:
        if text.count("`") % 2:
            self._code = not self._code
        made.append(text)
        self._parts.append(text)
        self._length += len(text)
