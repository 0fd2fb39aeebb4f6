"""What is loaded beside the model in the same process: ControlNets, adapters, VAEs, a refiner."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")


class Companions:
    """The latest ones of each kind are kept. Safe from any thread: a request loads what it needs as it is accepted, so
    that nobody's steps wait for it.

    Args:
        most: of one kind that are kept. What a lane holds stays alive as long as the lane does.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[str, Future[Any]]] = {}

    def get(self, kind: str, path: str, load: Callable[[str], Loaded]) -> Loaded:
        """The companion at `path`, loaded by `load(path)` when it is not here. Raises what `load` raises."""
        with self._lock:
            kept = self._kept.setdefault(kind, OrderedDict())
            there = kept.get(path)
            found = kept[path] = there or Future()
            kept.move_to_end(path)
            while len(kept) > self._most:
                kept.popitem(last=False)
        if there is None:
            self._load(kind, path, load, found)
        loaded: Loaded = found.result()
        return loaded

    def _load(self, kind: str, path: str, load: Callable[[str], Any], found: Future[Any]) -> None:
        try:
            found.set_result(load(path))
        except BaseException as error:
            with self._lock:
                if self._kept[kind].get(path) is found:
                    del self._kept[kind][path]
            found.set_exception(error)
