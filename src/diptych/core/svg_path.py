"""The `d` of an SVG path, read into straight lines and cubic curves. Standard library only.

Grammar and arcs: SVG 1.1 (Second Edition), 8.3 and appendix F.6. Points are complex numbers, x + iy.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable

Segment = tuple[complex, complex] | tuple[complex, complex, complex, complex]
"""A line (from, to), or a cubic curve (from, control, control, to)."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(rf"\s*,?\s*(?:(?P<command>[MmLlHhVvCcSsQqTtAaZz])|(?P<number>{_NUMBER}))")
_FLAG = re.compile(r"\s*,?\s*(?P<number>[01])")
_COUNTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_LIMIT = 1e6


def parse_path(d: str) -> list[list[Segment]]:
    """The subpaths of `d`, each a list of segments that follow one another. Raises ValueError, which says where."""
    reader = _Reader(d)
    while not reader.at_end:
        reader.command()
    if not any(reader.subpaths):
        raise ValueError("the path draws nothing")
    return [subpath for subpath in reader.subpaths if subpath]


class _Reader:
    def __init__(self, d: str) -> None:
        self._d, self._at = d.rstrip(), 0
        self._here = self._start = 0j
        self._control: tuple[str, complex] | None = None
        self._last = ""
        self.subpaths: list[list[Segment]] = []

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._d)

    def command(self) -> None:
        """Read one command, or the next numbers of the one before."""
        token = _TOKEN.match(self._d, self._at)
        if token is None:
            raise self._fault("a command or a number was expected")
        letter = token["command"]
        if letter:
            self._at = token.end()
        else:
            if self._last in ("", "Z", "z"):
                raise self._fault("a command was expected")
            letter = {"M": "L", "m": "l"}.get(self._last, self._last)
        kind = letter.upper()
        if not self._last and kind != "M":
            raise self._fault("a path begins with M")
        values = [self._number(flag=kind == "A" and index in (3, 4)) for index in range(_COUNTS[kind])]
        self._last = letter
        self._draw(kind, values, self._here if letter.islower() else 0j)

    def _draw(self, kind: str, values: list[float], base: complex) -> None:
        draw: dict[str, Callable[[], None]] = {
            "M": lambda: self._move(base + complex(*values)),
            "Z": self._close,
            "L": lambda: self._line(base + complex(*values)),
            "H": lambda: self._line(complex(base.real + values[0], self._here.imag)),
            "V": lambda: self._line(complex(self._here.real, base.imag + values[0])),
            "A": lambda: self._arc(values, base + complex(values[5], values[6])),
        }
        points = [base + complex(*values[at:at + 2]) for at in range(0, len(values) - 1, 2)]
        if kind in draw:
            draw[kind]()
            self._control = None
        elif kind == "C":
            self._cubic(*points)
        elif kind == "S":
            self._cubic(self._mirrored("C"), *points)
        else:
            self._quadratic(points[0] if kind == "Q" else self._mirrored("Q"), points[-1])

    def _move(self, to: complex) -> None:
        self._here = self._start = to
        self.subpaths.append([])

    def _close(self) -> None:
        if self._here != self._start:
            self._line(self._start)
        self.subpaths.append([])

    def _line(self, to: complex) -> None:
        self.subpaths[-1].append((self._here, to))
        self._here = to

    def _cubic(self, first: complex, second: complex, to: complex) -> None:
        self.subpaths[-1].append((self._here, first, second, to))
        self._here, self._control = to, ("C", second)

    def _quadratic(self, control: complex, to: complex) -> None:
        here = self._here
        self._cubic(here + (control - here) * 2 / 3, to + (control - to) * 2 / 3, to)
        self._control = ("Q", control)

    def _mirrored(self, kind: str) -> complex:
        """The control point that goes on smoothly from a curve of this kind; else where the pen is."""
        if self._control is not None and self._control[0] == kind:
            return 2 * self._here - self._control[1]
        return self._here

    def _arc(self, values: list[float], to: complex) -> None:
        rx, ry, turn = abs(values[0]), abs(values[1]), cmath.rect(1.0, math.radians(values[2]))
        if self._here == to:
            return
        if rx == 0 or ry == 0:
            self._line(to)
            return
        for piece in _arc_pieces(self._here, to, rx, ry, turn, values[3] != values[4], values[4] != 0):
            self.subpaths[-1].append(piece)
        self._here = to

    def _number(self, flag: bool) -> float:
        token = (_FLAG if flag else _TOKEN).match(self._d, self._at)
        if token is None or token["number"] is None:
            raise self._fault("a flag, 0 or 1, was expected" if flag else "a number was expected")
        value = float(token["number"])
        if abs(value) > _LIMIT:
            raise self._fault(f"a number is over {_LIMIT:g}")
        self._at = token.end()
        return value

    def _fault(self, what: str) -> ValueError:
        seen = ascii(self._d[self._at:self._at + 20]) if not self.at_end else "its end"
        return ValueError(f"the path cannot be read at character {self._at + 1} ({seen}): {what}")


def _arc_pieces(
    here: complex, to: complex, rx: float, ry: float, turn: complex, positive: bool, sweep: bool,
) -> list[Segment]:
    """An elliptical arc as cubic curves of at most a quarter turn; `positive`: the sign of the centre (F.6.5.2)."""
    half = (here - to) / 2 / turn
    size = (half.real / rx) ** 2 + (half.imag / ry) ** 2
    if size > 1:  # too small to reach: grown until it does (F.6.6.3)
        rx, ry, size = rx * math.sqrt(size), ry * math.sqrt(size), 1.0
    root = math.sqrt(max(0.0, 1 / size - 1)) * (1 if positive else -1)
    centre = root * complex(rx * half.imag / ry, -ry * half.real / rx)

    def angle(point: complex) -> float:
        return cmath.phase(complex((point - centre).real / rx, (point - centre).imag / ry))

    first, span = angle(half), angle(-half) - angle(half)
    span += 2 * math.pi * ((span < 0) - (span > 0)) if (span > 0) != sweep else 0.0
    middle = (here + to) / 2
    count = max(1, math.ceil(abs(span) / (math.pi / 2) - 1e-9))
    bow = 4 / 3 * math.tan(span / count / 4)

    def placed(x: float, y: float) -> complex:
        return middle + turn * (centre + complex(rx * x, ry * y))

    pieces: list[Segment] = []
    for index in range(count):
        a, b = first + span * index / count, first + span * (index + 1) / count
        pieces.append((
            here if index == 0 else placed(math.cos(a), math.sin(a)),
            placed(math.cos(a) - bow * math.sin(a), math.sin(a) + bow * math.cos(a)),
            placed(math.cos(b) + bow * math.sin(b), math.sin(b) - bow * math.cos(b)),
            to if index == count - 1 else placed(math.cos(b), math.sin(b))))
    return pieces
