"""What labels have anyway, remembered: it is the same for every text."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

KEPT = 256


class Baselines:
    """Values by key, the last `KEPT` that were used. One for each server."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[float, ...]] = OrderedDict()

    def get(self, key: Any) -> tuple[float, ...] | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Any, value: tuple[float, ...]) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
