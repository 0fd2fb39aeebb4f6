"""From what was asked to the text of one picture: styles put around it, wildcards and choices drawn.

Drawn with the picture's seed alone: the same seed and the same files give the same text, on every system.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_PROMPT
from diptych.prompts.choices import Choice, Option, Piece, Raw, Wildcard, read
from diptych.prompts.parser import NETWORK

MAX_NESTED = 16
"""Wildcards inside wildcards."""
MAX_WORK = 2_000_000
"""Options looked at for one text."""
Values = Callable[[str], "tuple[Option, ...]"]
"""The values of a wildcard; raises InvalidRequest when there is no such one."""
_UNDERSCORE = re.compile(r"(?P<keep>\\.|" + NETWORK + r")|_(?=_)", re.DOTALL)


def resolve(text: str, seed: int, values: Values, *, param: str) -> str:
    """The text with every choice and wildcard replaced. Resolving the result changes nothing.

    Args:
        param: the field it is of; prompt and negative prompt draw different numbers from one seed.

    Raises:
        InvalidRequest: an unknown wildcard, wildcards that lead to each other without end, or a text of more than
            `MAX_PROMPT` characters.
    """
    pieces = read(text)
    if not any(isinstance(piece, (Choice, Wildcard)) for piece in pieces):
        return text
    drawing = _Drawing(random.Random(f"{param}:{seed}"), values, param)
    drawing.all(pieces, ())
    return _UNDERSCORE.sub(lambda match: match["keep"] or "_\\", drawing.text)


class _Drawing:
    """One text in the making."""

    def __init__(self, chance: random.Random, values: Values, param: str) -> None:
        self._chance, self._values, self._param = chance, values, param
        self._texts: list[str] = []
        self._length = 0
        self._work = 0

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def all(self, pieces: tuple[Piece, ...], within: tuple[str, ...]) -> None:
        """Add these pieces. `within`: the wildcards that they are values of."""
        for piece in pieces:
            if isinstance(piece, Raw):
                self._add(f"\\{piece.text}" if piece.brace else piece.text)
            elif isinstance(piece, Wildcard):
                self._wildcard(piece.name, within)
            else:
                self._choice(piece, within)

    def _add(self, text: str) -> None:
        if not text:
            return
        last = self._texts[-1] if self._texts else ""
        if (len(last) - len(last.rstrip("\\"))) % 2:
            self._texts[-1] += "\\"  # a backslash that stood alone must not escape what comes now
        self._texts.append(text)
        self._length += len(text)
        if self._length > MAX_PROMPT:
            raise InvalidRequest(
                f"{self._param} has more than {MAX_PROMPT} characters with its choices and wildcards drawn",
                param=self._param)

    def _wildcard(self, name: str, within: tuple[str, ...]) -> None:
        if len(within) >= MAX_NESTED:
            raise InvalidRequest(
                f"{self._param} has wildcards more than {MAX_NESTED} deep in each other: "
                f"{' → '.join(one[:50] for one in (*within[-3:], name))}", param=self._param, code="wildcard_nesting")
        options = self._values(name)
        for option in self._pick(options, 1):
            self.all(option.items, (*within, name))

    def _choice(self, choice: Choice, within: tuple[str, ...]) -> None:
        count = choice.low + int(self._chance.random() * (choice.high - choice.low + 1))
        for place, option in enumerate(self._pick(choice.options, min(count, len(choice.options)))):
            if place:
                self._add(choice.separator)
            self.all(option.items, within)

    def _pick(self, options: tuple[Option, ...], count: int) -> list[Option]:
        """So many different options, by their weights; those of weight 0 never."""
        self._work += len(options)
        left = [option for option in options if option.weight > 0]
        picked: list[Option] = []
        while left and len(picked) < count:
            self._work += len(left)
            if self._work > MAX_WORK:
                raise InvalidRequest(
                    f"{self._param} has too many choices and wildcards: drawing them means to look at more than "
                    f"{MAX_WORK} options", param=self._param)
            point = self._chance.random() * sum(option.weight for option in left)
            place = 0
            while place < len(left) - 1 and point >= left[place].weight:
                point -= left[place].weight
                place += 1
            picked.append(left.pop(place))
        return picked
