"""Adapters in the layers of a model, for some rows of a pass and not for others."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diptych.engines.image.adapters.deltas import Delta
from diptych.engines.image.adapters.names import Places
from diptych.engines.image.adapters.reading import Deltas, read_deltas

Chosen = tuple[tuple[str, float], ...]
"""Keys of adapters and their weights."""
Rows = slice | torch.Tensor | None
"""Some rows of a batch; None: all of them."""


class Adapter:
    """An adapter in a model, for as long as somebody holds this object. `bytes`: of its tensors."""

    def __init__(self, key: str, deltas: Deltas) -> None:
        self.key = key
        self.deltas = deltas
        self.bytes = sum(tensor.nbytes for part in deltas.values() for delta in part.values()
                         for tensor in delta.tensors())


class AdapterLayers:
    """The layers of one model that adapters change. `load` is safe from any thread, all else is of the thread that
    computes.

    A layer gets a hook when the first adapter that changes it is used; without adapters in a pass it finds nothing to
    do.

    Args:
        parts: "unet", "text_encoder", "text_encoder_2".
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts
        self._places = Places(parts)
        self._deltas: dict[tuple[str, str], dict[str, Delta]] = {}
        self._plans: dict[str, list[tuple[str, float, Rows]]] = {part: [] for part in parts}
        self._known: weakref.WeakValueDictionary[str, Adapter] = weakref.WeakValueDictionary()
        self._attached: set[str] = set()
        self._gone: deque[str] = deque()

    def load(self, path: Path, id: str) -> Adapter:
        """Read a file. Raises InvalidRequest, see `read_deltas`; OSError."""
        key = f"{path}@{path.stat().st_mtime_ns}"
        known = self._known.get(key)
        if known is not None:
            return known
        adapter = self._known[key] = Adapter(key, read_deltas(path, id, self._places))
        weakref.finalize(adapter, self._gone.append, key)
        return adapter

    @contextlib.contextmanager
    def using(self, part: str, rows: Sequence[Chosen]) -> Iterator[None]:
        """Inside, each row of a batch through this part is computed with its own adapters."""
        if not any(rows):
            yield
            return
        self._tidy()
        for key in {key for chosen in rows for key, _ in chosen} - self._attached:
            self._attach(self._known[key])
        self._plans[part][:] = planned(rows, self._device(part))
        try:
            yield
        finally:
            self._plans[part].clear()

    def _attach(self, adapter: Adapter) -> None:
        for part, deltas in adapter.deltas.items():
            for name, delta in deltas.items():
                self._of(part, name)[adapter.key] = delta
        self._attached.add(adapter.key)

    def _tidy(self) -> None:
        """Drop the deltas of adapters that nobody holds any more."""
        while self._gone:
            key = self._gone.popleft()
            if key in self._attached and key not in self._known:
                self._attached.discard(key)
                for deltas in self._deltas.values():
                    deltas.pop(key, None)

    def _device(self, part: str) -> torch.device:
        device: torch.device = next(self._parts[part].parameters()).device
        return device

    def _of(self, part: str, name: str) -> dict[str, Delta]:
        """The deltas of one layer, which has a hook from now on."""
        if (part, name) not in self._deltas:
            deltas = self._deltas[part, name] = {}
            module: torch.nn.Module = self._parts[part].get_submodule(name)
            module.register_forward_hook(_hook(self._plans[part], deltas))
        return self._deltas[part, name]


def planned(rows: Sequence[Chosen], device: torch.device) -> list[tuple[str, float, Rows]]:
    """Each adapter and weight with the rows it is for, in the order of a row's own list."""
    wanted: dict[tuple[str, float], list[int]] = {}
    for number, chosen in enumerate(rows):
        for key, weight in chosen:
            if weight:
                wanted.setdefault((key, weight), []).append(number)
    return [(key, weight, _these(numbers, len(rows), device)) for (key, weight), numbers in wanted.items()]


def _these(numbers: list[int], total: int, device: torch.device) -> Rows:
    if len(numbers) == total:
        return None
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)


def _hook(plan: list[tuple[str, float, Rows]], deltas: dict[str, Delta]) -> Any:
    def change(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        for key, weight, rows in plan:
            delta = deltas.get(key)
            if delta is None:
                continue
            if rows is None:
                delta.change(module, given[0], made, weight)
            elif isinstance(rows, slice):
                delta.change(module, given[0][rows], made[rows], weight)
            else:
                some = made[rows]
                delta.change(module, given[0][rows], some, weight)
                made[rows] = some

    return change
