"""Stop texts: where an answer ends, and what of it can be told before that is known. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diptych.core.chat import TokenProbability


@dataclass(frozen=True)
class Piece:
    """Text of one token (may be empty, in the middle of a character) and its probabilities, if asked for."""

    text: str
    logprobs: tuple[TokenProbability, ...] = ()


class StopWatch:
    """Holds back as much of the text as could be the beginning of a stop text. The tokens of a stop text are not told,
    as they are not part of the answer."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        self._held: list[Piece] = []
        self.found: str | None = None

    def add(self, piece: Piece) -> Piece | None:
        """What can be told now; None while nothing can. After a stop text (`found`) nothing is taken any more."""
        if self.found is not None:
            return None
        self._held.append(piece)
        text = "".join(held.text for held in self._held)
        cut = self._cut(text)
        if self.found is None:
            cut = len(text) - self._open(text)
        return self._release(cut, final=self.found is not None)

    def flush(self) -> Piece | None:
        """What was held back, once the answer is over."""
        return self._release(sum(len(piece.text) for piece in self._held), final=True)

    def _cut(self, text: str) -> int:
        places = [(text.find(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if not places:
            return len(text)
        where, _, self.found = min(places)
        return where

    def _open(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, length: int, final: bool) -> Piece | None:
        texts: list[str] = []
        logprobs: list[TokenProbability] = []
        while self._held and (length > 0 or (not final and not self._held[0].text)
                              or (final and self.found is None)):
            piece = self._held.pop(0)
            texts.append(piece.text[:length])
            logprobs.extend(piece.logprobs)
            if len(piece.text) > length and not final:
                self._held.insert(0, Piece(piece.text[length:]))
            length = max(0, length - len(piece.text))
        if final:
            self._held.clear()
        return Piece("".join(texts), tuple(logprobs)) if texts else None
