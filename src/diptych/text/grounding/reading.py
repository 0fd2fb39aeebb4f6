"""A run's events with the citations of its answer: marks are taken out of the text, citations come before the end."""

from __future__ import annotations

from diptych.core.chat import TokenProbability
from diptych.core.events import Event, Finished, TokenDelta
from diptych.text.grounding.citing import citations_of, quotes_of
from diptych.text.grounding.fitting import Attempt
from diptych.text.grounding.markers import Markers, Note
from diptych.text.grounding.sources import Citation, Cited


class CitingReader:
    """Belongs to one answer."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._markers = Markers(len(attempt.selection.passages))
        self._marked = attempt.marked or attempt.mode == "quote"
        self._text: list[str] = []
        self._logprobs: tuple[TokenProbability, ...] = ()

    def read(self, event: Event) -> list[Event]:
        """Every event of the run but the last."""
        if not isinstance(event, TokenDelta):
            return [event]
        return self._told(self._markers.feed(event.text) if self._marked else event.text, event.logprobs)

    def end(self, event: Finished) -> list[Event]:
        """What was held back, the citations, and the end. Takes time that grows with the answer and the passages."""
        cut = self._attempt.mode == "quote"  # there "[" begins nothing but marks
        rest = self._told(self._markers.end(cut=cut) if self._marked else "", (), last=True)
        if self._attempt.mode == "off":
            return [*rest, event]
        return [*rest, Cited(citations=tuple(one.told() for one in self._citations())), event]

    def _citations(self) -> list[Citation]:
        text, passages = "".join(self._text), self._attempt.selection.passages
        if self._attempt.mode == "quote":
            notes = list(self._markers.notes)
            if text.endswith('"') and text.count('"') % 2 == 0 and not (notes and notes[-1].at == len(text)):
                notes.append(Note(len(text), tuple(range(1, len(passages) + 1))))  # cut off before its number
            return quotes_of(text, passages, notes)
        return citations_of(text, passages, self._markers.notes)

    def _told(self, text: str, logprobs: tuple[TokenProbability, ...], *, last: bool = False) -> list[Event]:
        """Probabilities of tokens that are held back are told with the next text."""
        self._logprobs += logprobs
        self._text.append(text)
        if not text and not (last and self._logprobs):
            return []
        told, self._logprobs = self._logprobs, ()
        return [TokenDelta(text=text, logprobs=told)]
