"""What the starter's training scripts share: a clock that survives a restart, atomic state files, PSNR."""

from __future__ import annotations

import time
from pathlib import Path

import torch

LONGEST_STEP = 5.0
"""Seconds. A longer gap is a process that was stopped for a while, which is no training."""


class Clock:
    """Counts the minutes of training over all runs; `over` is true when the budget is spent."""

    def __init__(self, minutes: float) -> None:
        self.budget, self.before, self._looked = minutes * 60, 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        now = time.monotonic()
        self.before += min(now - self._looked, LONGEST_STEP)
        self._looked = now
        return self.before

    def over(self) -> bool:
        return self.spent >= self.budget

    def left_share(self, tail: float) -> float:
        """1 until the last `tail` share of the budget, then down to 0 in a straight line."""
        return min(1.0, max(0.0, (1 - self.spent / self.budget) / tail))


def save_state(file: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, clock: Clock, step: int,
               **more: object) -> None:
    """Write under a temporary name and rename, so that a kill in mid-save leaves the last good file."""
    temporary = file.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "spent": clock.spent, "step": step,
                **more}, temporary)
    temporary.replace(file)


def load_state(file: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> int:
    """Restore model, optimizer and clock from `file`, where it is there; the step to go on from."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    clock.before = state["spent"]
    return int(state["step"])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over the batch of the peak signal-to-noise ratio in dB, for pictures in -1..1."""
    error = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())
