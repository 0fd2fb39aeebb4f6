"""Which texts fit a question: BM25 by SQLite's full-text search, and ranks of several kinds joined."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from diptych.text.grounding.words import STOP, words_of

TOKENIZER = "unicode61 remove_diacritics 2"
RRF = 60
"""Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet", 2009."""
MOST_WORDS = 200
"""Of a question."""


def fts_query(question: str) -> str | None:
    """Any of its words, as a query of FTS5; None where it has none. Words that every text has are left out, unless
    there are no others."""
    words = list(dict.fromkeys(word.text for word in words_of(question)))
    words = ([word for word in words if word not in STOP] or words)[:MOST_WORDS]
    quoted = ('"' + word.replace('"', '""') + '"' for word in words)
    return " OR ".join(quoted) if words else None


def bm25(question: str, texts: Sequence[str]) -> list[int]:
    """The indices of `texts`, best first; those without a word of the question last, as they came."""
    query = fts_query(question)
    found: list[int] = []
    if query is not None:
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = '{TOKENIZER}')")
            connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", enumerate(texts))
            found = [int(row[0]) for row in connection.execute(
                "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rank, rowid", (query,))]
        finally:
            connection.close()
    there = set(found)
    return [*found, *(index for index in range(len(texts)) if index not in there)]


def fused(rankings: Iterable[Sequence[int]]) -> list[tuple[int, float]]:
    """Ids and scores, best first: the sum of 1 / (60 + rank) over the rankings that an id is in."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + 1.0 / (RRF + rank)
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))
