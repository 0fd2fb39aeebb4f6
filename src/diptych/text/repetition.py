"""Finds answers that go round in circles.

Models at low temperature fall into loops that end only at the token limit. A loop is told from what people ask for
(lists, tables, code, "ha ha ha", rows of zeros, ASCII art) by how much of it there is: the evidence asked for rises the
more a repetition looks like something that is written on purpose.

Three kinds are looked for at the end of the text: exact loops (the text ends in k copies of one piece), counted loops
(copies that differ in their numbers only), and loose loops (hardly any run of four words that was not there before).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WINDOW = 8192
"""Characters at the end of the text that are looked at."""
STEP, SLOW_STEP = 24, 480
"""New characters between two looks for exact loops, and between two for the others, which cost more."""
_NEEDLES = (12, 48, 160)
"""Lengths of the ends whose last occurrence gives the distance of a loop."""
_DIGITS = re.compile(r"[0-9]+")
_WORDS = re.compile(r"[^\W_]+")
_LOOSE_WORDS = 240
_LOOSE_SHARE = 0.12
_PROSE = frozenset(" .,;:!?'\"-\n’“”…()。，、！？：；「」『』،؟।")
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Letters that say about as much as three of an alphabet."""


@dataclass(frozen=True)
class Evidence:
    """What is asked for before a repetition counts as a loop: so many copies, with so many characters in all."""

    copies: int
    characters: int


BLANK = Evidence(300, 300)
SYLLABLE = Evidence(80, 320)
"""Pieces of a few letters: laughter, cheering."""
SENTENCE = Evidence(8, 480)
PARAGRAPH = Evidence(5, 1000)
MARKUP = Evidence(24, 2400)
"""Code, tables, numbers, drawings: repeated rows are usual there."""
SYMBOL = Evidence(600, 1200)
COUNTED = Evidence(32, 2400)


class RepetitionWatch:
    """Fed with the pieces of one answer. Costs some microseconds a piece."""

    def __init__(self) -> None:
        self._text = ""
        self._fresh = self._slow = 0

    def feed(self, piece: str) -> bool:
        """Whether the answer so far ends in a loop."""
        self._text += piece
        self._fresh += len(piece)
        self._slow += len(piece)
        if self._fresh < STEP:
            return False
        self._fresh = 0
        if len(self._text) > 2 * WINDOW:
            self._text = self._text[-WINDOW:]
        if _exact(self._text):
            return True
        if self._slow < SLOW_STEP:
            return False
        self._slow = 0
        return _counted(self._text[-WINDOW:]) or _loose(self._text)


def _exact(text: str) -> bool:
    for period in periods(text):
        copies = copies_at_end(text, period)
        if copies < PARAGRAPH.copies:  # nothing is satisfied with less
            continue
        piece = text[-period:]
        asked = evidence(piece)
        if copies >= asked.copies and copies * width(piece) >= asked.characters:
            return True
    return False


def _counted(text: str) -> bool:
    """Copies with other numbers in them. Lists are written so: only long prose counts, and much of it."""
    if not _DIGITS.search(text[-400:]):
        return False
    even = _DIGITS.sub("0", text)
    for period in periods(even):
        copies, piece = copies_at_end(even, period), even[-period:]
        if copies < COUNTED.copies or copies * period < COUNTED.characters:
            continue
        if len(_WORDS.findall(piece)) >= 5 and evidence(piece) in (SENTENCE, PARAGRAPH):
            return True
    return False


def _loose(text: str) -> bool:
    """Prose of a few sentences in ever new order: nearly no four words in a row are new."""
    if len(text) < 4 * _LOOSE_WORDS:
        return False
    tail = text[-12 * _LOOSE_WORDS:]
    words = _WORDS.findall(tail.lower())[-_LOOSE_WORDS:]
    if len(words) < _LOOSE_WORDS or not is_prose(tail) or sum(map(len, words)) < 3 * _LOOSE_WORDS:
        return False
    runs = {tuple(words[i:i + 4]) for i in range(len(words) - 3)}
    return len(runs) <= _LOOSE_SHARE * (len(words) - 3)


def periods(text: str) -> list[int]:
    """Distances from the end of `text` to where its last characters stood before."""
    found = []
    for length in _NEEDLES:
        if len(text) > length:
            place = text.rfind(text[-length:], 0, len(text) - 1)
            if place >= 0 and (distance := len(text) - length - place) not in found:
                found.append(distance)
    return found


def copies_at_end(text: str, period: int) -> int:
    """How many times the last `period` characters stand at the end of `text`, one behind the other."""
    piece, copies = text[-period:], 1
    while text.endswith(piece, 0, len(text) - copies * period) and copies * period < len(text):
        copies += 1
    return copies


def evidence(piece: str) -> Evidence:
    """What a loop of this piece has to show."""
    if piece.isspace():
        return BLANK
    letters = set(_WORDS.findall(piece.lower()))
    if not letters:
        return SYMBOL if len(set(piece)) <= 2 else MARKUP
    if not is_prose(piece):
        return MARKUP
    if width(piece) < 12:
        return SYLLABLE
    return SENTENCE if len(piece) < 200 else PARAGRAPH


def width(text: str) -> int:
    """Characters, as a Latin alphabet would need them."""
    return len(text) if text.isascii() else len(text) + 2 * len(_WIDE.findall(text))


def is_prose(text: str) -> bool:
    """Letters, blanks and the marks of sentences; no more than a few figures and other signs."""
    plain = sum(character.isalpha() or character in _PROSE for character in text)
    return plain >= 0.93 * len(text) and not text.count("  ") * 8 > len(text)
