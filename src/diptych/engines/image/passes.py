"""Measures the memory that passes of a model take, by the peak of the process or of the accelerator."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch

from diptych.engines.memory import peak_bytes, reset_peak, resident_bytes

TIMES = 3
"""Passes of one kind that are measured; the first ones allocate what the later ones use again."""


class PassMemory:
    """`found`: the most that each kind of pass took beyond what was held when this was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: Counter[str] = Counter()
        self._before = self._held()
        self.found: dict[str, int] = {}

    @contextlib.contextmanager
    def measured(self, kind: str) -> Iterator[None]:
        """Measure what happens inside, if that is still wanted for this kind and can be."""
        if self._times[kind] >= TIMES or not self._reset():
            yield
            return
        self._times[kind] += 1
        yield
        peak = torch.cuda.max_memory_reserved(self._device) if self._device.type == "cuda" else peak_bytes()
        # A new dict each time: it is read from another thread.
        self.found = {**self.found, kind: max(self.found.get(kind, 0), peak - self._before)}

    def _held(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else resident_bytes()

    def _reset(self) -> bool:
        """Begin a new peak; False where that is not possible, and passes cannot be told apart."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return True
        return self._device.type == "cpu" and reset_peak()
