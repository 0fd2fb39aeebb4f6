"""The files of collections: whole after `kill -9` at any moment, made and deleted in one step, by many at once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

from diptych.core.errors import Conflict, InvalidRequest, NotFound
from diptych.text.grounding.chunks import split
from diptych.text.grounding.collection_file import Collection
from diptych.text.grounding.collections import CollectionStore, NewDocument

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_grounded_store import document
from diptych.text.grounding.collections import CollectionStore
store = CollectionStore(Path(sys.argv[1]))
print("ready", flush=True)
for turn in range(100000):
    store.add("me", "book", [document(f"{turn % 7}", turn), document(f"{turn % 5}-b", turn)])
    store.remove("me", "book", f"{turn % 7}")
"""


def collection(name: str) -> Collection:
    return Collection(name, "me", None, "", 200, 0, datetime.now(timezone.utc))


def document(id: str, turn: int) -> NewDocument:
    text = " ".join(f"River {turn} has bridge {index}." for index in range(60))
    chunks = tuple(split(text, 200))
    return NewDocument(id, "", "text/plain", text, chunks, tuple([float(index), 1.0] for index in range(len(chunks))))


def test_killed_at_any_moment(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create("me", collection("book"))
    chance = random.Random(3)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)],
                                  stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.02, 0.4))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = store.documents("me", "book", 100)
        for one in found:
            kept, text = store.document("me", "book", one.id)
            assert len(text) == kept.characters
        seen = store.get("me", "book")
        assert seen.passages == sum(one.passages for one in found)
        by_words = store.by_words("me", "book", "river bridge", 10_000)
        by_vector = store.by_vector("me", "book", [0.0, 1.0], 10_000)
        assert len(by_words) == len(by_vector) == seen.passages
        there = store.passages("me", "book", [(id, 1.0) for id in by_words])
        assert len(there) == seen.passages
        assert {passage.source for passage in there.values()} == {one.id for one in found}


def test_one_of_many_makes_it(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)

    def make(_: int) -> bool:
        try:
            store.create("me", collection("book"))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(16))) == 1
    assert [one.name for one in store.all("me")] == ["book"] and store.all("you") == []
    assert len(list(tmp_path.rglob("*.sqlite3"))) == 1


def test_writers_and_readers_at_once_and_a_delete(tmp_path: Path) -> None:
    """Nobody sees anything but whole documents, and then that it is gone."""
    store = CollectionStore(tmp_path)
    store.create("me", collection("book"))

    def write(turn: int) -> int:
        try:
            store.add("me", "book", [document(f"d{turn}", turn)])
            return len(store.by_words("me", "book", "bridge", 10_000)) % len(document("x", 1).chunks)
        except NotFound:
            return 0

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write, range(12))) == {0}
        assert store.get("me", "book").documents == 12
        later = [pool.submit(write, turn) for turn in range(12, 24)]
        store.delete("me", "book")
        assert {one.result() for one in later} == {0}
    with pytest.raises(NotFound):
        store.get("me", "book")
    store.create("me", collection("book"))
    assert store.get("me", "book").documents == 0


def test_leftovers_are_swept(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create("me", collection("book"))
    folder = next(tmp_path.rglob("*.sqlite3")).parent
    for name in (".gone-1", ".new-1"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "x.sqlite3").write_bytes(b"half")
    store.sweep()
    assert {path.name for path in folder.parent.iterdir()} == {"book", ".new-1"}  # somebody may be at that one
    assert [one.name for one in store.all("me")] == ["book"]


@pytest.mark.parametrize("name", ["..", "a/../..", "/etc", "a\\b", "con", "a\0b", ""])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    store = CollectionStore(tmp_path / "data")
    for work in (store.get, store.delete, lambda caller, name: store.documents(caller, name, 1)):
        with pytest.raises(InvalidRequest):
            work("me", name)


def test_other_vectors_are_told(tmp_path: Path) -> None:
    store = CollectionStore(tmp_path)
    store.create("me", collection("book"))
    store.add("me", "book", [document("a", 1)])
    with pytest.raises(Conflict, match="2 numbers"):
        store.by_vector("me", "book", [1.0, 2.0, 3.0], 5)
