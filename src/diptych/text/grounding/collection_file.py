"""The tables of one collection, and what is asked of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from diptych.core.errors import Conflict, NotFound, Unavailable
from diptych.text.grounding.chunks import Chunk
from diptych.text.grounding.rank import TOKENIZER, fts_query
from diptych.text.grounding.sources import Passage

_TABLES = f"""
CREATE TABLE meta (value TEXT NOT NULL);
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, media_type TEXT NOT NULL,
    characters INTEGER NOT NULL, passages INTEGER NOT NULL, sha256 TEXT NOT NULL, created_at TEXT NOT NULL,
    text TEXT NOT NULL);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents (number),
    start INTEGER NOT NULL, length INTEGER NOT NULL, vector BLOB);
CREATE INDEX passages_of_document ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (text, content = '', tokenize = '{TOKENIZER}');
"""
_DOCUMENT = "id, title, media_type, characters, passages, sha256, created_at"
BLOCK = 4096
"""Vectors that are compared at once."""


@dataclass(frozen=True)
class Collection:
    """`model` makes the vectors of its passages; None: it is searched by words only. Passages have at most `characters`
    characters, and share at most `overlap` with the next."""

    name: str
    caller: str
    model: str | None
    description: str
    characters: int
    overlap: int
    created_at: datetime
    documents: int = 0
    passages: int = 0


@dataclass(frozen=True)
class Document:
    id: str
    title: str
    media_type: str
    characters: int
    passages: int
    sha256: str
    created_at: datetime


def make(connection: sqlite3.Connection, collection: Collection) -> None:
    """Write an empty one."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_TABLES)
    values = {**asdict(collection), "created_at": collection.created_at.isoformat()}
    connection.execute("INSERT INTO meta VALUES (?)", (json.dumps(values),))
    connection.commit()


def prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def read(connection: sqlite3.Connection) -> Collection:
    values = json.loads(connection.execute("SELECT value FROM meta").fetchone()[0])
    documents, passages = connection.execute("SELECT count(*), coalesce(sum(passages), 0) FROM documents").fetchone()
    return Collection(**{**values, "created_at": datetime.fromisoformat(values["created_at"]),
                         "documents": documents, "passages": passages})


def insert(
    connection: sqlite3.Connection, document: Document, text: str, chunks: Sequence[Chunk],
    vectors: Sequence[Sequence[float]],
) -> Document:
    values = (*asdict(document).values(),)[:-1]
    number = connection.execute(
        f"INSERT INTO documents ({_DOCUMENT}, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, document.created_at.isoformat(), text)).lastrowid
    for index, chunk in enumerate(chunks):
        vector = struct.pack(f"<{len(vectors[index])}f", *vectors[index]) if vectors else None
        id = connection.execute(
            "INSERT INTO passages (document, start, length, vector) VALUES (?, ?, ?, ?)",
            (number, chunk.start, len(chunk.text), vector)).lastrowid
        connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (id, chunk.text))
    return document


def remove(connection: sqlite3.Connection, id: str) -> bool:
    """Whether it was there."""
    row = connection.execute("SELECT number, text FROM documents WHERE id = ?", (id,)).fetchone()
    if row is None:
        return False
    number, text = row
    for passage, start, length in connection.execute(
            "SELECT id, start, length FROM passages WHERE document = ?", (number,)).fetchall():
        connection.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)",
                           (passage, text[start:start + length]))
    connection.execute("DELETE FROM passages WHERE document = ?", (number,))
    connection.execute("DELETE FROM documents WHERE number = ?", (number,))
    return True


def forget(connection: sqlite3.Connection) -> None:
    """Overwrite what was removed, in the index of words and in the log too."""
    connection.execute("INSERT INTO words (words) VALUES ('optimize')")
    connection.execute("PRAGMA wal_checkpoint (TRUNCATE)")


def documents(connection: sqlite3.Connection, limit: int, after: str | None) -> list[Document]:
    begin = 0
    if after is not None:
        begin = _number(connection, after, "after")
    return [_document(row) for row in connection.execute(
        f"SELECT {_DOCUMENT} FROM documents WHERE number > ? ORDER BY number LIMIT ?", (begin, limit))]


def document(connection: sqlite3.Connection, id: str) -> Document:
    _number(connection, id, "document")
    return _document(connection.execute(f"SELECT {_DOCUMENT} FROM documents WHERE id = ?", (id,)).fetchone())


def text(connection: sqlite3.Connection, id: str) -> str:
    return str(connection.execute("SELECT text FROM documents WHERE id = ?", (id,)).fetchone()[0])


def by_words(connection: sqlite3.Connection, question: str, limit: int) -> list[int]:
    query = fts_query(question)
    if query is None:
        return []
    return [int(row[0]) for row in connection.execute(
        "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?", (query, limit))]


def by_vector(connection: sqlite3.Connection, vector: Sequence[float], limit: int) -> list[int]:
    try:
        import numpy as np
    except ImportError:
        raise Unavailable("vectors cannot be searched here: install diptych[text]", code="not_installed") from None
    wanted = np.asarray(vector, dtype="<f4")
    best: list[tuple[float, int]] = []
    rows = connection.execute("SELECT id, vector FROM passages WHERE vector IS NOT NULL")
    while block := rows.fetchmany(BLOCK):
        if len(block[0][1]) != wanted.nbytes:
            raise Conflict(f"the vectors of this collection have {len(block[0][1]) // 4} numbers, those of its model "
                           f"now {len(wanted)}: it is another model under the same name", code="other_vectors")
        scores = np.frombuffer(b"".join(row[1] for row in block), dtype="<f4").reshape(len(block), -1) @ wanted
        best += [(-float(score), row[0]) for score, row in zip(scores, block, strict=True)]
        best = sorted(best)[:limit]
    return [id for _, id in best]


def passages(connection: sqlite3.Connection, name: str, scores: Sequence[tuple[int, float]]) -> dict[int, Passage]:
    found = {}
    for id, score in scores:
        row: Any = connection.execute(
            "SELECT d.id, d.title, substr(d.text, p.start + 1, p.length), p.start FROM passages p "
            "JOIN documents d ON d.number = p.document WHERE p.id = ?", (id,)).fetchone()
        if row is not None:
            found[id] = Passage(row[0], row[1], row[2], row[3], round(score, 6), name)
    return found


def _document(row: Any) -> Document:
    id, title, media_type, characters, count, sha256, created_at = row
    return Document(id, title, media_type, characters, count, sha256, datetime.fromisoformat(created_at))


def _number(connection: sqlite3.Connection, id: str, param: str) -> int:
    row = connection.execute("SELECT number FROM documents WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no document {id[:200]!a} in this collection", param=param)
    return int(row[0])
