"""The reader of prompts: one pass over the text, a stack of open brackets. Every text is a prompt.

What cannot be meant as syntax is text: a bracket that closes nothing, one that was opened inside another and is open
when that one closes, and brackets deeper than `MAX_DEPTH`. A bracket that is never closed reaches to the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from diptych.prompts.nodes import (
    ESCAPABLE,
    PLAIN_WEIGHT,
    Alternating,
    Break,
    Network,
    Node,
    Part,
    Prompt,
    Scheduled,
    Text,
    Weighted,
    When,
    number,
)

MAX_DEPTH = 32
"""Brackets inside each other."""
MAX_WEIGHT = 100.0
"""Weights beyond it, either way, are taken for it."""
MAX_MOMENT = 1e9
NETWORKS = ("lora", "lyco", "hypernet")
NETWORK = r"<(?:" + "|".join(NETWORKS) + r"):[^<>{}|\n:]+(?::[^<>{}|\n:]*)*>"
_TOKEN = re.compile(
    r"(?P<escape>\\(?:[" + re.escape(ESCAPABLE) + r"]|(?:AND|BREAK)\b))"
    r"|(?P<network>" + NETWORK + r")"
    r"|(?P<word>\b(?:AND|BREAK)\b)"
    r"|(?P<mark>[()\[\]:|])"
    r"|(?P<text>[^\\<()\[\]:|AB]+|.)", re.DOTALL)
_PAIR = {")": "(", "]": "["}


@dataclass(frozen=True)
class _Mark:
    """A `:` or `|` whose meaning its bracket decides."""

    sign: str


_Item = Node | _Mark


@dataclass
class _Frame:
    """An open bracket; the outermost has none."""

    opened: str = ""
    items: list[_Item] = field(default_factory=list)


def parse(text: str, *, syntax: str = "full", conjunction: bool = True) -> Prompt:
    """Read a prompt; never fails. Linear in the length of the text.

    Args:
        syntax: "plain": the text means itself.
        conjunction: whether AND separates parts; in a negative prompt it is a word.
    """
    if syntax == "plain":
        return Prompt((Part((Text(text),) if text else ()),))
    parts: list[list[tuple[str, str]]] = [[]]
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match[0]
        if kind == "word" and found == "AND" and conjunction:
            parts.append([])
        else:
            parts[-1].append((kind, found))
    if len(parts) == 1:
        return Prompt((Part(_nodes(_tree(parts[0]))),))
    return Prompt(tuple(_part(tokens) for tokens in parts))


def _part(tokens: list[tuple[str, str]]) -> Part:
    """One of several parts; `:1.2` at its end is its weight."""
    items = _tree(tokens)
    weight = _ending(items)
    nodes = list(_nodes(items if weight is None else items[:-2]))
    if nodes and isinstance(nodes[0], Text):
        nodes[0] = Text(nodes[0].text.lstrip())
    if nodes and isinstance(nodes[-1], Text):
        nodes[-1] = Text(nodes[-1].text.rstrip())
    return Part(tuple(node for node in nodes if node != Text("")), 1.0 if weight is None else _bounded(weight))


def _tree(tokens: list[tuple[str, str]]) -> list[_Item]:
    """Items of the outermost level, brackets closed."""
    stack = [_Frame()]
    open_of = {"(": 0, "[": 0}
    beyond: list[str] = []
    for kind, found in tokens:
        items = stack[-1].items
        if kind == "escape":
            items.append(Text(found[1:]))
        elif kind == "network":
            names = found[1:-1].split(":")
            items.append(Network(names[0], names[1], tuple(names[2:])))
        elif kind == "word":
            items.append(Break() if found == "BREAK" else Text(found))
        elif kind == "text":
            items.append(Text(found))
        elif found in ":|":
            items.append(_Mark(found))
        elif found in "([":
            if len(stack) > MAX_DEPTH:
                beyond.append(found)
                items.append(Text(found))
            else:
                stack.append(_Frame(found))
                open_of[found] += 1
        elif beyond and beyond[-1] == _PAIR[found]:
            beyond.pop()
            items.append(Text(found))
        else:
            _close(stack, open_of, found)
    while len(stack) > 1:
        frame = stack.pop()
        factor = PLAIN_WEIGHT if frame.opened == "(" else 1 / PLAIN_WEIGHT
        stack[-1].items.append(Weighted(_nodes(frame.items), factor))
    return stack[0].items


def _close(stack: list[_Frame], open_of: dict[str, int], closer: str) -> None:
    """End the innermost bracket of this kind; those open inside it were text."""
    opener = _PAIR[closer]
    if not open_of[opener]:
        stack[-1].items.append(Text(closer))
        return
    while stack[-1].opened != opener:
        frame = stack.pop()
        open_of[frame.opened] -= 1
        stack[-1].items += [Text(frame.opened), *frame.items]
    frame = stack.pop()
    open_of[opener] -= 1
    stack[-1].items.append(_round(frame.items) if opener == "(" else _square(frame.items))


def _round(items: list[_Item]) -> Node:
    weight = _ending(items)
    if weight is None:
        return Weighted(_nodes(items), PLAIN_WEIGHT)
    return Weighted(_nodes(items[:-2]), _bounded(weight))


def _square(items: list[_Item]) -> Node:
    if _Mark("|") in items:
        return Alternating(tuple(_nodes(option) for option in _split(items, "|")))
    pieces = _split(items, ":")
    if len(pieces) in (2, 3):
        when = _moment(pieces[-1])
        if when is not None:
            before = pieces[0] if len(pieces) == 3 else []
            return Scheduled(_nodes(before), _nodes(pieces[-2]), when)
    return Weighted(_nodes(items), 1 / PLAIN_WEIGHT)


def _split(items: list[_Item], sign: str) -> list[list[_Item]]:
    pieces: list[list[_Item]] = [[]]
    for item in items:
        if item == _Mark(sign):
            pieces.append([])
        else:
            pieces[-1].append(item)
    return pieces


def _moment(items: list[_Item]) -> When | None:
    text = _joined(items)
    value = None if text is None else number(text)
    if text is None or value is None:
        return None
    value = min(max(value, 0.0), MAX_MOMENT)
    fraction = "." in text
    return When(value if fraction else float(int(value)), fraction)


def _ending(items: list[_Item]) -> float | None:
    """The number behind a colon that the items end with. It is one text: a number has nothing that splits it."""
    if len(items) < 2 or items[-2] != _Mark(":") or not isinstance(items[-1], Text):
        return None
    return number(items[-1].text)


def _joined(items: list[_Item]) -> str | None:
    """The text of items that are nothing else."""
    texts = [item.text for item in items if isinstance(item, Text)]
    return "".join(texts) if len(texts) == len(items) else None


def _bounded(weight: float) -> float:
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)


def _nodes(items: list[_Item]) -> tuple[Node, ...]:
    """Items with the marks that meant nothing as text, neighbouring texts joined, no space around BREAK."""
    nodes: list[Node] = []
    texts: list[str] = []

    def take_text(before_break: bool) -> None:
        text = "".join(texts)
        texts.clear()
        if nodes and isinstance(nodes[-1], Break):
            text = text.lstrip()
        if before_break:
            text = text.rstrip()
        if text:
            nodes.append(Text(text))

    for item in items:
        if isinstance(item, _Mark):
            texts.append(item.sign)
        elif isinstance(item, Text):
            texts.append(item.text)
        else:
            take_text(isinstance(item, Break))
            nodes.append(item)
    take_text(False)
    return tuple(nodes)
