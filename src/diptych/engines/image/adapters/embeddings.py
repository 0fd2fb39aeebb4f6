"""Textual inversion (Gal et al. 2022, https://arxiv.org/abs/2208.01618): words whose vectors come from a file."""

from __future__ import annotations

import itertools
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diptych.core.errors import InvalidRequest
from diptych.engines.image.adapters.names import TEXT, TEXT_2

XL_NAMES = ({TEXT: "clip_l", TEXT_2: "clip_g"}, {TEXT: "text_encoders_0", TEXT_2: "text_encoders_1"})


class Embedding:
    """Vectors of one file, known under negative token ids for as long as somebody holds this object."""

    def __init__(self, key: str, ids: tuple[int, ...]) -> None:
        self.key = key
        self.ids = ids


class Vectors:
    """All embeddings of a model's text encoders. `load` is safe from any thread.

    Args:
        widths: of the word vectors of each text encoder.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._widths = dict(widths)
        self._tables: dict[str, dict[int, torch.Tensor]] = {part: {} for part in widths}
        self._known: weakref.WeakValueDictionary[str, Embedding] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def load(self, path: Path, id: str) -> Embedding:
        """Read a file. Raises InvalidRequest: it is damaged, or of another family."""
        key = f"{path}@{path.stat().st_mtime_ns}"
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                return known
            found = self._read(path, id)
            count = len(next(iter(found.values())))
            embedding = Embedding(key, tuple(-next(self._numbers) for _ in range(count)))
            for part, vectors in found.items():
                self._tables[part] |= dict(zip(embedding.ids, vectors, strict=True))
            self._known[key] = embedding
        weakref.finalize(embedding, self._forget, embedding.ids)
        return embedding

    def of(self, part: str, tokens: Iterable[int]) -> dict[int, torch.Tensor]:
        """The vectors (width,) of those tokens that are of embeddings, by place."""
        return {place: self._tables[part][token] for place, token in enumerate(tokens) if token < 0}

    def _forget(self, ids: tuple[int, ...]) -> None:
        for table in self._tables.values():
            for number in ids:
                table.pop(number, None)

    def _read(self, path: Path, id: str) -> dict[str, torch.Tensor]:
        """Vectors (count, width) for each text encoder."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidRequest(f"embedding {id!r} cannot be read: {type(error).__name__}", param="prompt",
                                 code="embedding_damaged") from error
        found = {part: one if one.ndim == 2 else one[None]
                 for part, one in self._by_part(tensors).items() if one.ndim in (1, 2)}
        widths = {part: one.shape[1] for part, one in found.items()}
        if widths != self._widths or len({len(one) for one in found.values()}) != 1:
            shapes = ", ".join(f"{key[:100]} {tuple(one.shape)}" for key, one in list(tensors.items())[:3])
            raise InvalidRequest(
                f"embedding {id!r} is for another family of models: it has {shapes}, the text encoders of this model "
                f"have words of {' and '.join(str(width) for width in self._widths.values())} values", param="prompt",
                code="embedding_misfit")
        if not all(bool(torch.isfinite(one).all()) for one in found.values()):
            raise InvalidRequest(f"embedding {id!r} has values that are not finite numbers", param="prompt",
                                 code="embedding_damaged")
        return found

    def _by_part(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for names in XL_NAMES:
            found = {part: tensors[name] for part, name in names.items() if name in tensors and part in self._widths}
            if found:
                return found
        return {TEXT: next(iter(tensors.values()))} if len(tensors) == 1 and TEXT in self._widths else {}


def divided(text: str, words: Mapping[str, tuple[int, ...]]) -> Iterator[str | tuple[int, ...]]:
    """A text in pieces: what lies between embeddings, and the tokens of each embedding that stands there as a word,
    with or without "embedding:" before it and a comma, full stop or semicolon beside it."""
    start = 0
    for match in re.finditer(r"\S+", text) if words else ():
        bare = match[0].strip(",.;")
        tokens = words.get(bare.removeprefix("embedding:").casefold())
        if tokens is None:
            continue
        begin = match.start() + match[0].index(bare)
        if text[start:begin].strip():
            yield text[start:begin]
        yield tokens
        start = begin + len(bare)
    if start == 0 or text[start:].strip():
        yield text[start:]


class WordHook:
    """Puts vectors into the places of a text encoder's word embeddings."""

    def __init__(self, encoder: Any) -> None:
        self.places: dict[int, torch.Tensor] = {}
        """By place, of the next text only."""
        words = next(module for name, module in encoder.named_modules() if name.endswith("token_embedding"))
        words.register_forward_hook(self._replace)

    def _replace(self, module: Any, given: Any, made: torch.Tensor) -> torch.Tensor | None:
        if not self.places:
            return None
        made = made.clone()
        for place, vector in self.places.items():
            made[:, place] = vector.to(made)
        self.places = {}
        return made
