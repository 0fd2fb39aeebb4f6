"""The passages of a collection that fit a question."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from diptych.api.services import Services
from diptych.api.tasks.collections_ingest import vectors
from diptych.core.errors import InvalidRequest
from diptych.text.grounding.collections import CollectionStore
from diptych.text.grounding.rank import fused
from diptych.text.grounding.sources import Passage

MAX_FOUND = 100
DEEPEST = 100
"""Places of each ranking that are joined, at least; four times as many as are asked for."""


@dataclass(frozen=True)
class Mode:
    """`name`: hybrid, keyword or vector; None: what the collection has. `top_k` passages."""

    name: str | None = None
    top_k: int = 8


@dataclass(frozen=True)
class Found:
    """Best first; `ranks` of each passage, from 1, in the rankings it is in."""

    mode: str
    passages: tuple[Passage, ...]
    ranks: tuple[dict[str, int], ...]


async def searched(services: Services, caller: str, name: str, question: str, mode: Mode) -> Found:
    """Raises NotFound, InvalidRequest for a mode that the collection cannot do, and what its model fails with."""
    store = CollectionStore(services.settings.data_dir)
    collection = await asyncio.to_thread(store.get, caller, name)
    kind = mode.name or ("keyword" if collection.model is None else "hybrid")
    if kind != "keyword" and collection.model is None:
        raise InvalidRequest(f"mode is {kind!r}, but collection {name!r} was made without a model: only keyword is "
                             "possible", param="mode")
    deep = max(DEEPEST, 4 * mode.top_k)
    rankings: dict[str, list[int]] = {}
    if kind != "vector":
        rankings["keyword"] = await asyncio.to_thread(store.by_words, caller, name, question, deep)
    if kind != "keyword" and collection.model is not None and collection.passages:
        vector = (await vectors(services, collection.model, [question], caller))[0]
        rankings["vector"] = await asyncio.to_thread(store.by_vector, caller, name, vector, deep)
    best = fused(rankings.values())[:mode.top_k]
    places = {ranking: {id: rank for rank, id in enumerate(ids, 1)} for ranking, ids in rankings.items()}
    found = await asyncio.to_thread(store.passages, caller, name, best)
    ranks = [{ranking: place[id] for ranking, place in places.items() if id in place} for id in found]
    return Found(kind, tuple(found.values()), tuple(ranks))
