"""Measured figures: speeds and memory, kept as running averages per model, name and shape."""

from __future__ import annotations

from sqlalchemy import select

from diptych.store.database import Database
from diptych.store.jobs import now
from diptych.store.tables import measurements

WEIGHT = 0.3
"""Share of the newest value in the average, once there are a few."""


class Measurements:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, model: str, name: str, shape: str, value: float) -> float:
        """Fold a new value into the average, which is returned."""
        key = (measurements.c.model == model) & (measurements.c.name == name) & (measurements.c.shape == shape)
        with self._database.write() as connection:
            row = connection.execute(select(measurements).where(key)).mappings().one_or_none()
            if row is None:
                connection.execute(measurements.insert().values(
                    model=model, name=name, shape=shape, value=value, count=1, updated_at=now()))
                return value
            weight = max(WEIGHT, 1 / (row["count"] + 1))
            average = float(row["value"] + weight * (value - row["value"]))
            connection.execute(measurements.update().where(key).values(
                value=average, count=row["count"] + 1, updated_at=now()))
            return average

    def all(self, name: str) -> dict[tuple[str, str], float]:
        """Averages of one name by `(model, shape)`."""
        query = select(measurements.c.model, measurements.c.shape, measurements.c.value).where(
            measurements.c.name == name)
        with self._database.read() as connection:
            return {(model, shape): value for model, shape, value in connection.execute(query)}
