"""What a prompt consists of, and back to text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

PLAIN_WEIGHT = 1.1
"""What one pair of round brackets multiplies by, and one of square brackets divides by."""
ESCAPABLE = "\\()[]{}|:<>_$"
"""A backslash before one of these makes it a plain character; before any other character it is one itself."""
_SPECIAL = re.compile(r"[\\()\[\]{}|:<>]")
_WORDS = re.compile(r"\b(AND|BREAK)\b")


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Weighted:
    """`weight` multiplies the weights around it."""

    items: tuple[Node, ...]
    weight: float


@dataclass(frozen=True)
class When:
    """The moment of a change: a fraction of all steps, or a number of steps."""

    value: float
    fraction: bool

    def steps(self, total: int) -> int:
        """Steps before the change, 0 to `total`."""
        steps = self.value * total if self.fraction else self.value
        return int(min(max(steps, 0.0), float(total)))


@dataclass(frozen=True)
class Scheduled:
    """`before` until `when`, `after` from then on."""

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: When


@dataclass(frozen=True)
class Alternating:
    """One option in each step, in turn."""

    options: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Break:
    """What follows begins a new chunk."""


@dataclass(frozen=True)
class Network:
    """`<kind:name:…>`: an additional network. `weights` by what they are for: `te`, `unet`, and others as written."""

    kind: str
    name: str
    arguments: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        """`te` (text encoder) and `unet`: 1 unless given; one number is for both. Named ones win over positions."""
        places = [number(argument) for argument in self.arguments if "=" not in argument]
        numbers = [one for one in places if one is not None]
        found = {"te": numbers[0] if numbers else 1.0}
        found["unet"] = numbers[1] if len(numbers) > 1 else found["te"]
        for argument in self.arguments:
            key, sign, value = argument.partition("=")
            one = number(value)
            if sign and one is not None:
                found[key.strip().lower()] = one
        return found


Node = Text | Weighted | Scheduled | Alternating | Break | Network


@dataclass(frozen=True)
class Part:
    """What stands between two AND: a condition of its own, that counts `weight` times."""

    items: tuple[Node, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    parts: tuple[Part, ...]

    @property
    def networks(self) -> tuple[Network, ...]:
        """All of them, in the order of the text."""
        found: list[Network] = []
        waiting: list[Node] = [item for part in reversed(self.parts) for item in reversed(part.items)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Network):
                found.append(node)
            waiting.extend(reversed(children(node)))
        return tuple(found)


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Weighted):
        return node.items
    if isinstance(node, Scheduled):
        return node.before + node.after
    if isinstance(node, Alternating):
        return tuple(item for option in node.options for item in option)
    return ()


_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*", re.ASCII)


def number(text: str) -> float | None:
    """A decimal number without an exponent; None for any other text. Very many digits may mean infinity."""
    return float(text) if _NUMBER.fullmatch(text) else None


def written(value: float) -> str:
    """A number as the language reads it: no exponent."""
    return f"{Decimal(repr(value)):f}"


def escaped(text: str) -> str:
    """`text` as a prompt that means just that text. Words like AND and BREAK are words then."""
    return _WORDS.sub(r"\\\1", _SPECIAL.sub(r"\\\g<0>", text))


def unparse(prompt: Prompt) -> str:
    """A text that parses to `prompt`."""
    if len(prompt.parts) == 1:
        return _items(prompt.parts[0].items)
    return " AND ".join(
        _items(part.items) + (f" :{written(part.weight)}" if part.weight != 1.0 else "") for part in prompt.parts)


def _items(items: tuple[Node, ...]) -> str:
    return "".join(_node(item) for item in items)


def _node(node: Node) -> str:
    if isinstance(node, Text):
        return escaped(node.text)
    if isinstance(node, Weighted):
        inner = _items(node.items)
        return f"({inner})" if node.weight == PLAIN_WEIGHT else f"({inner}:{written(node.weight)})"
    if isinstance(node, Scheduled):
        moment = written(node.when.value)
        if node.when.fraction and "." not in moment:
            moment += ".0"
        elif not node.when.fraction:
            moment = moment.partition(".")[0]
        return f"[{_items(node.before)}:{_items(node.after)}:{moment}]"
    if isinstance(node, Alternating):
        return f"[{'|'.join(_items(option) for option in node.options)}]"
    if isinstance(node, Network):
        return f"<{':'.join((node.kind, node.name, *node.arguments))}>"
    return " BREAK "
