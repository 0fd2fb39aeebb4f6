"""JSON as models write it when nothing holds them, read in one pass; what is not plain is no JSON."""

from __future__ import annotations

import re
from typing import Any

MAX_TEXT = 200_000
MAX_DEPTH = 40
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'", "\n": "\n"}
_SKIPPED = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*\n?(.*?)(?:\n?\s*```)?\s*$", re.DOTALL)


def repaired_json(text: str) -> Any:
    """The value that `text` means: single quotes, bare keys, Python's words, comments, commas too many or missing, raw
    line ends in strings, a code fence around it, and brackets that are never closed.

    Raises:
        ValueError: it is not clear what is meant, or there is other text behind it.
    """
    fenced = _FENCE.match(text) if text.lstrip().startswith("```") else None
    reader = _Reader(fenced[1] if fenced else text)
    value = reader.value(0)
    reader.end()
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT} characters")
        self._text, self._at = text, 0

    def end(self) -> None:
        """Only closing brackets too many may follow."""
        if self._text[self._at:].strip(" \t\r\n}];,"):
            raise ValueError("text behind the value")

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("too deep")
        char = self._next()
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._array(depth)
        if char in "\"'“" and char:
            return self._string()
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            told = number[0]
            return float(told) if any(mark in told for mark in ".eE") else int(told[:400])
        word = _WORD.match(self._text, self._at)
        if word is not None and word[0] in _WORDS:
            self._at = word.end()
            return _WORDS[word[0]]
        raise ValueError(f"no value at character {self._at}")

    def _next(self) -> str:
        found = _SKIPPED.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._text[self._at:self._at + 1]

    def _object(self, depth: int) -> dict[str, Any]:
        self._at += 1
        made: dict[str, Any] = {}
        while (char := self._next()) not in ("}", ""):
            if char == ",":
                self._at += 1
                continue
            key = self._key(char)
            if self._next() not in (":", "="):
                raise ValueError(f"no colon at character {self._at}")
            self._at += 1
            if self._next() == "":
                break  # cut off behind a key
            made[key] = self.value(depth + 1)
        self._at += 1
        return made

    def _key(self, char: str) -> str:
        if char in "\"'“":
            return self._string()
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise ValueError(f"no key at character {self._at}")
        self._at = word.end()
        return word[0]

    def _array(self, depth: int) -> list[Any]:
        self._at += 1
        made: list[Any] = []
        while (char := self._next()) not in ("]", ""):
            if char == ",":
                self._at += 1
                continue
            if char == "}":
                break
            made.append(self.value(depth + 1))
        self._at += char == "]"
        return made

    def _string(self) -> str:
        quote = self._text[self._at]
        closing = "”" if quote == "“" else quote
        self._at += 1
        made: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == closing:
                break
            made.append(self._escaped() if char == "\\" else char)
        return "".join(made).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _escaped(self) -> str:
        char = self._text[self._at:self._at + 1]
        self._at += 1
        if char == "u":
            code = self._text[self._at:self._at + 4]
            try:
                made = chr(int(code, 16))
            except ValueError:
                raise ValueError(f"no code point at character {self._at}") from None
            self._at += 4
            return made
        return _ESCAPES.get(char, "\\" + char)
