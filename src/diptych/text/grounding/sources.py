"""What an answer rests on: passages of sources, and the citations that tell which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from diptych.core.events import Event

Match = Literal["exact", "overlap"]


@dataclass(frozen=True)
class Passage:
    """The characters `start` to `end` of a source's text. `score`: how well it fits the question, None where nobody
    asked; `collection` is where it was found."""

    source: str
    title: str
    text: str
    start: int
    score: float | None = None
    collection: str | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def told(self) -> dict[str, Any]:
        """What a client is told of it."""
        more = {"title": self.title or None, "collection": self.collection, "score": self.score}
        return {"id": self.source, "start": self.start, "end": self.end,
                **{name: value for name, value in more.items() if value is not None}}


@dataclass(frozen=True)
class Support:
    """A place that supports a citation: characters `start` to `end` of the passage, which are `quote`. `score`, 0 to 1:
    the share of the answer's words there that the quote has; 1 for an exact match."""

    passage: Passage
    start: int
    end: int
    match: Match
    score: float

    @property
    def quote(self) -> str:
        return self.passage.text[self.start:self.end]

    def told(self) -> dict[str, Any]:
        """With offsets into the whole source."""
        passage = self.passage
        made: dict[str, Any] = {
            "id": passage.source, "start": passage.start + self.start, "end": passage.start + self.end,
            "quote": self.quote, "match": self.match, "score": round(self.score, 4)}
        if passage.title:
            made["title"] = passage.title
        if passage.collection is not None:
            made["collection"] = passage.collection
        return made


@dataclass(frozen=True)
class Citation:
    """The characters `start` to `end` of an answer, and what supports them, best first."""

    start: int
    end: int
    text: str
    sources: tuple[Support, ...]

    def told(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "text": self.text,
                "sources": [source.told() for source in self.sources]}


class Cited(Event):
    """The citations of an answer, told before its end. Made by the gateway."""

    type: Literal["cited"] = "cited"
    citations: tuple[dict[str, Any], ...]
