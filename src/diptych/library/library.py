"""The models on disk, as cards."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.core.cards import Card, PartCard, PartKind
from diptych.core.errors import NotFound
from diptych.library.checkpoint import identify_checkpoint
from diptych.library.gguf import BadFile
from diptych.library.identify import MODEL_INDEX, identify_diffusers, identify_gguf, part_files
from diptych.library.networks import NETWORKS, identify_network, packaged_networks
from diptych.library.parts import add_part, identify_part, identify_part_folder, part_of
from diptych.library.pickles import PICKLES, pickled_among, told_pickled
from diptych.library.starters import STARTER, STARTER_TEXT, find_starter, find_starter_canny
from diptych.library.text_folder import identify_text_folder, is_text_folder
from diptych.library.text_traits import files_beside
from diptych.library.upstreams import upstream_cards
from diptych.settings import Settings

MAX_DEPTH = 6
"""Folders below a model folder that are looked into."""

_State = tuple[tuple[str, int, int], ...]
"""(path, mtime in ns, size) of all files that a card was made from."""


@dataclass(frozen=True)
class _Seen:
    state: _State
    card: Card | PartCard | None
    problem: str | None = None


class Library:
    """Models in the data folder, in `settings.model_dirs`, and the image model that ships.

    Every question looks at the disk again, but a file that has not changed is not read again; for a model that is
    known, and whose own files are as they were, no other folder is looked at. Safe from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen: dict[Path, _Seen] = {}
        self._problems: list[str] = []
        self._parts: dict[tuple[str, str], PartCard] = {}
        self._cards: dict[str, Card] = {}

    def cards(self) -> list[Card]:
        """All models that can be used, sorted by id; ids are unique. Never raises because of a broken file."""
        with self._lock:
            return sorted(self._scan().values(), key=lambda card: card.id)

    def get(self, id: str) -> Card:
        """Raises NotFound, which names what is there."""
        with self._lock:
            known_card = self._unchanged(id)
            if known_card is not None:
                return known_card
            cards = self._scan()
            damage = _damage(self._problems, id)
        if id not in cards:
            if damage:
                raise NotFound(f"model {id[:200]!r} cannot be used: {damage}", param="model", code="model_damaged")
            known = ", ".join(sorted(cards)) or "none; try: diptych models pull starter-text"
            raise NotFound(f"no model {id[:200]!r}; there are: {known}", param="model", code="model_not_found")
        return cards[id]

    def _unchanged(self, id: str) -> Card | None:
        """The card of the last look, if its files are still the same. A scan of large folders takes many
        milliseconds, and every request asks for its model."""
        card = self._cards.get(id)
        seen = self._seen.get(Path(card.path)) if card is not None else None
        if card is None or seen is None or id in upstream_cards(self._settings):
            return None
        try:
            return card if seen.problem is None and _state(Path(card.path)) == seen.state else None
        except OSError:
            return None

    def parts(self, kind: PartKind | None = None) -> list[PartCard]:
        """Files that are used together with image models, sorted by kind and id; ids are unique within a kind."""
        with self._lock:
            self._scan()
            return [part for _, part in sorted(self._parts.items()) if kind in (None, part.kind)]

    def part(self, kind: PartKind, id: str) -> PartCard:
        """The part of this id, or of this name where no id is that. Raises NotFound, which names what is there."""
        try:
            return part_of(self.parts(kind), kind, id)
        except NotFound as error:
            if damage := _damage(self.problems(), id):
                raise NotFound(f"{id[:200]!r} cannot be used: {damage}", param=kind, code="model_damaged") from error
            raise

    def problems(self) -> list[str]:
        """A line for every model that is there but cannot be used: its path and why."""
        with self._lock:
            self._scan()
            return list(self._problems)

    def _scan(self) -> dict[str, Card]:
        cards: dict[str, Card] = {}
        parts: dict[tuple[str, str], PartCard] = {}
        problems: list[str] = []
        fresh: dict[Path, _Seen] = {}
        for path in self._paths(problems):
            if path in fresh:
                continue
            seen = fresh[path] = self._look(path)
            if seen.problem is not None:
                problems.append(f"{path}: {seen.problem}")
            if isinstance(seen.card, PartCard):
                add_part(parts, seen.card)
            elif seen.card is not None:
                _add(cards, seen.card, problems)
        self._seen, self._problems, self._parts, self._cards = fresh, problems, parts, cards
        return {**cards, **upstream_cards(self._settings)}

    def _paths(self, problems: list[str]) -> Iterator[Path]:
        starter = find_starter(self._settings)
        canny = find_starter_canny(self._settings)
        yield from (folder for folder in (starter, canny) if folder is not None)
        yield from packaged_networks()
        for root in (self._settings.models_dir, *self._settings.model_dirs):
            if root.is_dir():
                yield from _models_below(root)
            elif root != self._settings.models_dir:
                problems.append(f"{root}: this model folder does not exist")

    def _look(self, path: Path) -> _Seen:
        try:
            state = _state(path)
            seen = self._seen.get(path)
            if seen is not None and seen.state == state:
                return seen
        except OSError as error:
            return _Seen((), None, f"cannot be read: {error.strerror or error}")
        try:
            return _Seen(state, _identify(path, find_starter(self._settings)))
        except BadFile as error:
            return _Seen(state, None, error.message)
        except OSError as error:
            return _Seen(state, None, f"cannot be read: {error.strerror or error}")


def _damage(problems: list[str], id: str) -> str:
    """Why the model cannot be used that lies in a folder or file of this name; empty where there is none."""
    for problem in problems:
        place, _, reason = problem.partition(": ")
        if id in (Path(place).name, Path(place).stem, Path(place).parent.name):
            return reason
    return ""


def _identify(path: Path, starter: Path | None) -> Card | PartCard | None:
    if path.is_dir() and not (path / MODEL_INDEX).is_file():
        return identify_part_folder(path) or identify_text_folder(path)
    if path.is_dir():
        return identify_diffusers(path, STARTER if path == starter else None)
    if path.suffix in NETWORKS:
        return identify_network(path)
    if path.suffix.lower() in PICKLES:
        raise BadFile(told_pickled(path))
    if path.suffix == ".safetensors":
        return identify_part(path) or identify_checkpoint(path)
    return identify_gguf(path, STARTER_TEXT if path.parent.name == STARTER_TEXT else None)


def _add(cards: dict[str, Card], card: Card, problems: list[str]) -> None:
    """Add under its id; a different model of the same name gets a piece of its fingerprint behind it."""
    first = cards.get(card.id)
    if first is not None and first.fingerprint != card.fingerprint:
        card = card.model_copy(update={"id": f"{card.id}-{card.fingerprint[:6]}"})
        first = cards.get(card.id)
    if first is not None:
        problems.append(f"{card.path}: the same model as {first.path}, which is used")
        return
    cards[card.id] = card


def _models_below(root: Path) -> Iterator[Path]:
    """Diffusers folders, transformers folders, GGUF and safetensors files, in a stable order. Follows links, each
    folder once."""
    visited: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        try:
            status = here.stat()
        except OSError:
            folders.clear()
            continue
        identity = (status.st_dev, status.st_ino)
        too_deep = len(here.relative_to(root).parts) >= MAX_DEPTH
        # On some file systems the inode is 0; the depth alone bounds the walk there.
        if MODEL_INDEX in files or (status.st_ino and identity in visited) or too_deep:
            folders.clear()
        if status.st_ino and identity in visited:
            continue
        visited.add(identity)
        if MODEL_INDEX in files:
            yield here
            continue
        if is_text_folder(files):
            yield here
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # The weights of a language model's folder are no models of their own.
        endings = (".gguf",) if is_text_folder(files) else (".gguf", ".safetensors", *NETWORKS)
        yield from (here / name for name in sorted(files) if name.endswith(endings) and not name.startswith("."))
        yield from pickled_among(here, files)


def _state(path: Path) -> _State:
    files = part_files(path) if path.is_dir() else [*part_files(path), *files_beside(path)]
    if path.is_dir():
        names = ("*.json", "*.jinja", "README.md", "*.safetensors", "*/*config.json", "*/*.safetensors", "*/*.bin")
        files = sorted(file for name in names for file in path.glob(name))
    status = [(file, file.stat()) for file in files]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in status)
