"""Which passages are put before a model whose context has room for so much. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.core.specs import ChatSpec
from diptych.text.grounding.chunks import split
from diptych.text.grounding.prompts import quote_format, with_passages
from diptych.text.grounding.rank import bm25
from diptych.text.grounding.sources import Passage

BYTES_PER_TOKEN = 3
"""Of texts whose tokens nobody has counted: English has four or more."""
PIECE = 1200
"""Characters of the pieces of documents that do not fit whole."""
HEAD = 24
"""Tokens around each passage: its number and title."""
FEWER = 0.6
"""What is tried next where the model's own count says that it does not fit."""
PICTURE_TOKENS = 1024


@dataclass(frozen=True)
class Selection:
    """What is put before the model, in the order of its sources, and what was left out for want of room."""

    passages: tuple[Passage, ...]
    left_out: tuple[dict[str, Any], ...]

    def told(self) -> dict[str, Any]:
        return {"documents_used": [passage.told() for passage in self.passages],
                "documents_left_out": list(self.left_out)}


@dataclass(frozen=True)
class Attempt:
    """A spec with passages, `mode` and `marked` as `Grounding` has them."""

    spec: ChatSpec
    selection: Selection
    mode: str
    marked: bool


@dataclass(frozen=True)
class Grounding:
    """What an answer is to rest on.

    Args:
        spec: the conversation without it.
        mode: "auto", "quote" or "off".
        documents: whole texts that the client sent.
        found: passages of collections, best first; they come after the documents.
        question: what passages are ranked by.
        room: tokens of prompt and answer together.
    """

    spec: ChatSpec
    mode: str
    documents: tuple[Passage, ...]
    found: tuple[Passage, ...]
    question: str
    room: int

    def attempts(self) -> Iterator[Attempt]:
        """At least one. With as much as should fit, and then with less and less, down to the best passage alone.
        Blocks."""
        target = float(self._target())
        size: float = math.inf
        while target >= 1:
            made = self.selection(int(target))
            if _size(made) < size:
                yield self._attempt(made)
                size = _size(made)
            target *= FEWER

    def selection(self, tokens: int) -> Selection:
        """Whole documents where all fits; else the best pieces of them, then what was found, as far as they fit; the
        best one in any case."""
        whole = [*self.documents, *self.found]
        if sum(map(cost, whole)) <= tokens:
            return _selection(whole, whole)
        pieces = [replace(passage, start=passage.start + chunk.start, text=chunk.text)
                  for passage in self.documents for chunk in split(passage.text, PIECE)]
        ranked = [*(pieces[index] for index in bm25(self.question, [piece.text for piece in pieces])), *self.found]
        return _selection(list(_fitting(ranked, tokens)), ranked)

    def _target(self) -> int:
        """Tokens for passages: what conversation and answer leave; half of the context where old turns may go."""
        if self.spec.truncation == "auto":
            return self.room // 2
        said = sum(len(message.text.encode()) // BYTES_PER_TOKEN + 8 + len(message.images) * PICTURE_TOKENS
                   for message in self.spec.messages)
        answer = min(self.spec.sampling.max_tokens or 1024, self.room // 4)
        return max(self.room // 8, self.room - said - answer - 100)

    def _attempt(self, selection: Selection) -> Attempt:
        marked = self.mode == "auto" and self.spec.format is None
        messages = tuple(with_passages(self.spec.messages, selection.passages, self.mode, marked))
        changes: dict[str, Any] = {"messages": messages}
        if self.mode == "quote":
            changes["format"] = quote_format(selection.passages)
        return Attempt(self.spec.model_copy(update=changes), selection, self.mode, marked)


def cost(passage: Passage) -> int:
    """About how many tokens."""
    return len(passage.text.encode()) // BYTES_PER_TOKEN + HEAD


def _fitting(ranked: Sequence[Passage], tokens: int) -> Iterator[Passage]:
    """From the best on, until one does not fit."""
    for index, passage in enumerate(ranked):
        tokens -= cost(passage)
        if tokens < 0 and index:
            return
        yield passage


def _selection(kept: Sequence[Passage], offered: Sequence[Passage]) -> Selection:
    out = Counter(_source(passage) for passage in offered[len(kept):])
    order = list(dict.fromkeys(map(_source, kept)))
    ordered = sorted(kept, key=lambda passage: (order.index(_source(passage)), passage.start))
    return Selection(tuple(joined(ordered)), tuple(
        {"id": id, **({"collection": collection} if collection else {}), "passages": count, "reason": "context"}
        for (collection, id), count in out.items()))


def joined(passages: Iterable[Passage]) -> list[Passage]:
    """Passages of one source that overlap or touch, as one."""
    done: list[Passage] = []
    for passage in passages:
        last = done[-1] if done else None
        if last is not None and _source(last) == _source(passage) and passage.start <= last.end:
            more = passage.text[last.end - passage.start:] if passage.end > last.end else ""
            scores = [one.score for one in (last, passage) if one.score is not None]
            done[-1] = replace(last, text=last.text + more, score=max(scores, default=None))
        else:
            done.append(passage)
    return done


def _source(passage: Passage) -> tuple[str | None, str]:
    return passage.collection, passage.source


def _size(selection: Selection) -> int:
    return sum(len(passage.text) for passage in selection.passages)
