"""Texts as sequences of words that can be compared: the one normalisation that citations are checked by. Pure."""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_APOSTROPHES = "'’ʼ"
_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
"""Scripts without spaces between words (and Hangul): each character is a word."""
_NO_SPACES = re.compile(f"[{_WIDE}]")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n|\n(?=\s*(?:[-*•#]|\d+[.)]\s))")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|Fig|No|approx|ca|bzw|Nr|usw))\.$")
STOP = frozenset(re.findall(r"\S+", (
    "a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it "
    "its may more most no not of on or our she should so some such than that the their them then there these they "
    "this those to was we were what when where which who will with would you your")))
NEGATIONS = frozenset({"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without"})


@dataclass(frozen=True)
class Word:
    """`text` is folded; `start` and `end` are characters of the text it was found in."""

    text: str
    start: int
    end: int

    @property
    def number(self) -> bool:
        return any(char.isdigit() for char in self.text)

    @property
    def weight(self) -> float:
        """What it counts for as a part of what is said: nothing for words that every text has."""
        if self.text in STOP or self.text in "%$€£¥":
            return 0.0
        return 0.4 if _NO_SPACES.match(self.text) else 1.0

    @property
    def negation(self) -> bool:
        return self.text in NEGATIONS or self.text.endswith("n't")


def words_of(text: str, offset: int = 0) -> list[Word]:
    """The words of `text`, which begins at character `offset` of what their places are in: numbers with their sign and
    decimals, signs of currencies and percent, and what is written in one piece. Folded: NFKC, case, forms of the
    apostrophe, invisible characters. Punctuation and the kind of white space do not count."""
    return [Word(fold(found[0]), offset + found.start(), offset + found.end()) for found in _words().finditer(text)]


def fold(word: str) -> str:
    for char in _INVISIBLE:
        word = word.replace(char, "")
    for char in _APOSTROPHES[1:]:
        word = word.replace(char, "'")
    return unicodedata.normalize("NFKC", word).casefold().replace("−", "-")


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    inner = rf"(?:(?![{_WIDE}])\w|[{_marks()}{_INVISIBLE}])"
    return re.compile(
        rf"(?<![\w)\]])[-−+]?\d+(?:[.,:/]\d+)*(?!\w)|[{_WIDE}]|{inner}+(?:[{_APOSTROPHES}]{inner}+)*|[%$€£¥]")


def _marks() -> str:
    """Accents and vowel signs that follow their letter, as ranges of a character class."""
    found: list[list[int]] = []
    for code in range(0x300, min(0x11000, sys.maxunicode)):
        if 0xD800 <= code < 0xE000 or unicodedata.category(chr(code))[0] != "M" or _NO_SPACES.match(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)


def sentences_of(text: str) -> list[tuple[int, int]]:
    """The sentences of `text` as character ranges, without the white space around them."""
    cuts, begin = [], 0
    for found in _SENTENCE.finditer(text):
        if found.end() > begin and not _ABBREVIATION.search(text, max(begin, found.start() - 8), found.start()):
            cuts.append((begin, found.start()))
            begin = found.end()
    cuts.append((begin, len(text)))
    trimmed = ((start + len(text[start:end]) - len(text[start:end].lstrip()),
                start + len(text[start:end].rstrip())) for start, end in cuts)
    return [(start, end) for start, end in trimmed if start < end]
