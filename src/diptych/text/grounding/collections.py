"""Collections of documents: one SQLite file each in the data folder, searched by words and by vectors.

Every caller has names of its own. A collection is a folder `collections/<caller>/<name>/` with one file of a random
name: making it is one renaming, deleting it another, so that nothing half is ever seen, whatever dies when.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from diptych.core.errors import Conflict, NotFound, Unavailable
from diptych.core.paths import inside
from diptych.text.grounding import collection_file as file
from diptych.text.grounding.chunks import Chunk
from diptych.text.grounding.collection_file import Collection, Document
from diptych.text.grounding.sources import Passage

BUSY_SECONDS = 30.0
STALE_SECONDS = 3600.0
"""Older leftovers of a collection that was being made are nobody's."""
MAX_COLLECTIONS = 1000
"""Of one caller."""


@dataclass(frozen=True)
class NewDocument:
    """A document whose chunks, and their vectors where the collection has a model, are made."""

    id: str
    title: str
    media_type: str
    text: str
    chunks: tuple[Chunk, ...]
    vectors: tuple[Sequence[float], ...] = ()


class CollectionStore:
    """Blocks. Raises NotFound for a collection or document that is not there; InvalidRequest for a name that is no file
    name; Unavailable where the disk does not do it. Safe from any thread and process."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "collections"

    def create(self, caller: str, collection: Collection) -> Collection:
        """Raises Conflict where there is one of this name already, or there are too many."""
        folder = self._folder(caller)
        with _disk(f"collection {collection.name!r}"):
            folder.mkdir(parents=True, exist_ok=True)
            self.sweep()
            if len(self._names(caller)) >= MAX_COLLECTIONS:
                raise Conflict(f"there are {MAX_COLLECTIONS} collections already: delete some", code="too_many")
            work = folder / f".new-{secrets.token_hex(8)}"
            work.mkdir()
            try:
                with contextlib.closing(sqlite3.connect(work / f"{secrets.token_hex(8)}.sqlite3")) as connection:
                    file.make(connection, collection)
                try:
                    work.rename(self._path(caller, collection.name))
                except OSError:  # it is there, and not empty
                    if not self._path(caller, collection.name).exists():
                        raise
                    raise Conflict(f"there is a collection {collection.name!r} already", param="name") from None
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return self.get(caller, collection.name)

    def get(self, caller: str, name: str) -> Collection:
        with self._opened(caller, name) as connection:
            return file.read(connection)

    def all(self, caller: str) -> list[Collection]:
        found = []
        for name in self._names(caller):
            with contextlib.suppress(NotFound):  # deleted meanwhile
                found.append(self.get(caller, name))
        return found

    def delete(self, caller: str, name: str) -> None:
        """With all its documents. It is gone at once; its file is removed before this returns."""
        path = self._path(caller, name)
        gone = path.with_name(f".gone-{secrets.token_hex(8)}")
        with _disk(f"collection {name[:100]!r}"):
            try:
                path.rename(gone)
            except FileNotFoundError:
                raise _missing(name) from None
            shutil.rmtree(gone)

    def sweep(self) -> None:
        """Remove what was left behind where somebody was killed while making or deleting a collection."""
        for path in self._root.glob("*/.gone-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._root.glob("*/.new-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def add(self, caller: str, name: str, documents: Sequence[NewDocument]) -> list[Document]:
        """All of them or none, in one transaction. One with the id of another takes its place."""
        now = datetime.now(timezone.utc)
        with self._opened(caller, name) as connection:
            kept = []
            with file.transaction(connection):
                for new in documents:
                    file.remove(connection, new.id)
                    kept.append(file.insert(connection, Document(
                        new.id, new.title, new.media_type, len(new.text), len(new.chunks),
                        hashlib.sha256(new.text.encode()).hexdigest(), now), new.text, new.chunks, new.vectors))
            return kept

    def documents(self, caller: str, name: str, limit: int, after: str | None = None) -> list[Document]:
        """Oldest first, those behind the document `after`. Raises NotFound where that is none."""
        with self._opened(caller, name) as connection:
            return file.documents(connection, limit, after)

    def document(self, caller: str, name: str, id: str) -> tuple[Document, str]:
        """With its text."""
        with self._opened(caller, name) as connection:
            return file.document(connection, id), file.text(connection, id)

    def remove(self, caller: str, name: str, id: str) -> None:
        """Its text, words and vectors are overwritten."""
        with self._opened(caller, name) as connection:
            with file.transaction(connection):
                if not file.remove(connection, id):
                    raise NotFound(f"there is no document {id[:200]!a} in this collection", param="document")
            file.forget(connection)

    def by_words(self, caller: str, name: str, question: str, limit: int) -> list[int]:
        """Passages, best first (BM25); only those with a word of the question."""
        with self._opened(caller, name) as connection:
            return file.by_words(connection, question, limit)

    def by_vector(self, caller: str, name: str, vector: Sequence[float], limit: int) -> list[int]:
        """Passages, nearest first (cosine). Raises Conflict where the collection's vectors have another length."""
        with self._opened(caller, name) as connection:
            return file.by_vector(connection, vector, limit)

    def passages(self, caller: str, name: str, scores: Sequence[tuple[int, float]]) -> dict[int, Passage]:
        """Those of these numbers that are still there, in this order."""
        with self._opened(caller, name) as connection:
            return file.passages(connection, name, scores)

    @contextlib.contextmanager
    def _opened(self, caller: str, name: str) -> Iterator[sqlite3.Connection]:
        path = next(iter(self._path(caller, name).glob("*.sqlite3")), None)
        if path is None:
            raise _missing(name)
        with _disk(f"collection {name!r}", path):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS,
                                         isolation_level=None)
            with contextlib.closing(connection):
                file.prepare(connection)
                yield connection

    def _names(self, caller: str) -> list[str]:
        return sorted(path.name for path in self._folder(caller).glob("[!.]*"))

    def _folder(self, caller: str) -> Path:
        return self._root / hashlib.sha256(caller.encode()).hexdigest()[:24]

    def _path(self, caller: str, name: str) -> Path:
        path = inside(self._folder(caller), name, param="collection")
        if "/" in name or name.startswith("."):  # a part of a collection, or one that is being made or deleted
            raise _missing(name)
        return path


@contextlib.contextmanager
def _disk(what: str, path: Path | None = None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if path is not None and not path.exists():
            raise NotFound(f"there is no {what}", param="collection") from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unavailable(f"the {what} cannot be read or written: {reason}", code="storage") from None


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no collection {name[:100]!a}", param="collection")
