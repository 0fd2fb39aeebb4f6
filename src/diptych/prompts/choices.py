"""The reader of choices and wildcards: `{a|b}`, `{2::a|b}`, `{2$$a|b|c}`, `__name__`, inside each other.

Everything else passes as it was written, escapes included: it is read afterwards by `parser`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from diptych.prompts.nodes import ESCAPABLE, number
from diptych.prompts.parser import MAX_DEPTH, NETWORK

_TOKEN = re.compile(
    r"(?P<raw>\\[" + re.escape(ESCAPABLE) + r"]|" + NETWORK + r")"
    r"|__(?P<wildcard>(?!_)[\w\-./]{1,200}?)__"
    r"|(?P<mark>[(){}\[\]|])"
    r"|(?P<text>[^\\<_(){}\[\]|]+|.)", re.DOTALL)
_OPENED = {")": "(", "]": "[", "}": "{"}
_HEAD = re.compile(r"\s*(?P<low>\d{1,4})?(?P<range>-)?(?P<high>\d{1,4})?\$\$(?:(?P<separator>[^$]*)\$\$)?", re.ASCII)
_BEFORE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::", re.ASCII)
_BEHIND = re.compile(r":\s*(\d+\.\d*|\.\d+)\s*", re.ASCII)
DEFAULT_SEPARATOR = ", "


@dataclass(frozen=True)
class Raw:
    """Prompt text that passes. `brace`: a `{` or `}` that belongs to no choice."""

    text: str
    brace: bool = False


@dataclass(frozen=True)
class Wildcard:
    name: str


@dataclass(frozen=True)
class Option:
    items: tuple[Piece, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Choice:
    """`low` to `high` different options, joined by `separator`."""

    options: tuple[Option, ...]
    low: int = 1
    high: int = 1
    separator: str = DEFAULT_SEPARATOR


Piece = Raw | Wildcard | Choice


@dataclass(frozen=True)
class _Bar:
    """A `|` whose meaning its bracket decides."""


@dataclass
class _Frame:
    opened: str = ""
    items: list[Piece | _Bar] = field(default_factory=list)


def read(text: str) -> tuple[Piece, ...]:
    """The pieces of a text; never fails. Linear in its length."""
    stack = [_Frame()]
    open_of = {"(": 0, "[": 0, "{": 0}
    for match in _TOKEN.finditer(text):
        items = stack[-1].items
        found = match[0]
        if match.lastgroup == "wildcard":
            items.append(Wildcard(match["wildcard"]))
        elif match.lastgroup != "mark":
            items.append(Raw(found))
        elif found == "|":
            items.append(_Bar())
        elif found in "([{":
            if len(stack) > MAX_DEPTH:
                items.append(Raw(found, brace=found == "{"))
            else:
                stack.append(_Frame(found))
                open_of[found] += 1
        else:
            _close(stack, open_of, found)
    while len(stack) > 1:
        _dissolve(stack, open_of)
    return _passed(stack[0].items)


def _dissolve(stack: list[_Frame], open_of: dict[str, int]) -> None:
    """The innermost bracket was text."""
    frame = stack.pop()
    open_of[frame.opened] -= 1
    stack[-1].items += [Raw(frame.opened, brace=frame.opened == "{"), *frame.items]


def _close(stack: list[_Frame], open_of: dict[str, int], closer: str) -> None:
    opener = _OPENED[closer]
    if not open_of[opener]:
        stack[-1].items.append(Raw(closer, brace=closer == "}"))
        return
    while stack[-1].opened != opener:
        _dissolve(stack, open_of)
    frame = stack.pop()
    open_of[opener] -= 1
    if opener == "{":
        stack[-1].items.append(_choice(frame.items))
    else:
        stack[-1].items += [Raw(opener), *_passed(frame.items), Raw(closer)]


def _passed(items: list[Piece | _Bar]) -> tuple[Piece, ...]:
    """Bars that divide nothing are text; neighbouring texts are one."""
    found: list[Piece] = []
    texts: list[str] = []
    for item in items:
        piece = Raw("|") if isinstance(item, _Bar) else item
        if isinstance(piece, Raw) and not piece.brace:
            texts.append(piece.text)
            continue
        if texts:
            found.append(Raw("".join(texts)))
            texts = []
        found.append(piece)
    if texts:
        found.append(Raw("".join(texts)))
    return tuple(found)


def _choice(items: list[Piece | _Bar]) -> Choice:
    split: list[list[Piece | _Bar]] = [[]]
    for item in items:
        if isinstance(item, _Bar):
            split.append([])
        else:
            split[-1].append(item)
    options = [list(_passed(option)) for option in split]
    head = _HEAD.match(options[0][0].text) if options[0] and isinstance(options[0][0], Raw) else None
    if head is None or not (head["low"] or head["high"]):
        return Choice(tuple(_option(option) for option in options))
    first = options[0][0]
    assert isinstance(first, Raw)
    options[0][0] = Raw(first.text[head.end():])
    low = int(head["low"] or 0)
    high = low if not head["range"] else int(head["high"]) if head["high"] else len(options)
    separator = DEFAULT_SEPARATOR if head["separator"] is None else head["separator"]
    return Choice(tuple(_option(option) for option in options), min(low, high), max(low, high), separator)


def _option(pieces: list[Piece]) -> Option:
    """One option without the space around it. `2::a` and, with a decimal point, `a:0.5` tell its weight."""
    weight = 1.0
    if pieces and isinstance(pieces[0], Raw):
        text = pieces[0].text
        before = _BEFORE.match(text)
        if before is not None:
            weight = float(before[1])
            text = text[before.end():]
        pieces[0] = Raw(text.lstrip(), pieces[0].brace)
    if pieces and isinstance(pieces[-1], Raw):
        text = pieces[-1].text
        colon = text.rfind(":")
        behind = _BEHIND.fullmatch(text, colon) if colon >= 0 and not _escaped(text, colon) else None
        if behind is not None and weight == 1.0:
            weight = number(behind[1]) or 0.0
            text = text[:colon]
        pieces[-1] = Raw(text.rstrip(), pieces[-1].brace)
    kept = tuple(piece for piece in pieces if not isinstance(piece, Raw) or piece.text)
    return Option(kept, weight if math.isfinite(weight) else 1e9)


def _escaped(text: str, position: int) -> bool:
    """Whether an odd number of backslashes stands before it."""
    start = position
    while start and text[start - 1] == "\\":
        start -= 1
    return bool((position - start) % 2)


def option_of(text: str) -> Option:
    """A line of a wildcard's file. Raises nothing."""
    return _option(list(read(text)))
