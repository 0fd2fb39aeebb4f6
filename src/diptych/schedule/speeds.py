"""Measured speeds of image models, and what they say about work that is still to be done. Pure but for the writing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diptych.core.painting import shape_of, steps_of
from diptych.core.specs import JobSpec
from diptych.store.measurements import Measurements

NAME = "step_seconds"
Key = tuple[str, str]
"""Model, and size as "WxH"."""


@dataclass(frozen=True)
class Work:
    """Sampler steps still to do for so many pictures; `steps` counts those of every picture."""

    model: str
    shape: str
    pictures: float
    steps: float

    @property
    def key(self) -> Key:
        return self.model, self.shape


def work_of(spec: JobSpec, done: float = 0.0) -> Work:
    """Of a job of which the share `done` is done."""
    return Work(spec.model, shape_of(spec), spec.count, steps_of(spec) * spec.count * (1 - done))


class Speeds:
    """Seconds that one step of one picture takes, by how many pictures were denoised together. Several together take
    less per picture, so the number belongs to the measurement."""

    def __init__(self) -> None:
        self._seconds: dict[Key, dict[int, float]] = {}

    def take(self, model: str, shape: str, seconds: float) -> None:
        """A stored measurement, under the shape that `record` gave it."""
        self.learn(model, *_split(shape), seconds)

    def learn(self, model: str, shape: str, together: float, seconds: float) -> None:
        self._seconds.setdefault((model, shape), {})[_bucket(together)] = seconds

    def record(self, measurements: Measurements, model: str, shape: str, together: float, seconds: float) -> float:
        """Fold a measurement into the stored average, which is returned. Raises Unavailable."""
        bucket = _bucket(together)
        return measurements.record(model, NAME, shape if bucket == 1 else f"{shape}*{bucket}", seconds)

    def of(self, key: Key, together: float) -> float | None:
        """Seconds per step and picture with so many pictures at once, from the nearest smaller number that was
        measured (else the smallest); None where nothing was."""
        known = self._seconds.get(key)
        if not known:
            return None
        smaller = [bucket for bucket in known if bucket <= max(1.0, together)]
        return known[max(smaller) if smaller else min(known)]

    def seconds(self, work: Iterable[Work], batch: int) -> float | None:
        """How long all this takes when up to `batch` pictures of a model are denoised together; None where a speed that
        it depends on was never measured."""
        total = 0.0
        sums: dict[Key, tuple[float, float]] = {}
        for item in work:
            pictures, steps = sums.get(item.key, (0.0, 0.0))
            sums[item.key] = pictures + item.pictures, steps + item.steps
        for key, (pictures, steps) in sums.items():
            if steps <= 0:
                continue
            per_step = self.of(key, min(pictures, batch))
            if per_step is None:
                return None
            total += per_step * steps
        return total

    def alone(self, work: Work, beside: float, batch: int) -> float | None:
        """How long a job takes from its start to its end while its batch holds `beside` pictures, its own among
        them."""
        together = min(max(work.pictures, beside), batch)
        per_step = self.of(work.key, together)
        if per_step is None or not work.pictures:
            return None
        rounds = max(1.0, work.pictures / batch)
        return per_step * together * rounds * work.steps / work.pictures


def _bucket(together: float) -> int:
    """The largest power of two that is not larger."""
    return 1 << (max(1, int(together)).bit_length() - 1)


def _split(shape: str) -> tuple[str, int]:
    size, _, together = shape.partition("*")
    return size, int(together) if together.isdigit() else 1
