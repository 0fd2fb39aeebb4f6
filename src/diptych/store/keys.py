"""API keys and what is used of their limits. Every method is one transaction."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.engine import RowMapping

from diptych.core.errors import Conflict, InvalidRequest, NotFound
from diptych.core.jobs import JobState
from diptych.core.keys import (
    DEFAULT_SCOPES,
    MAX_LIMIT,
    SCOPES,
    ApiKey,
    hashed,
    is_key_name,
    new_key_id,
    new_key_text,
)
from diptych.store.database import Database
from diptych.store.jobs import now
from diptych.store.tables import api_keys, jobs, key_usage

Kind = Literal["tokens", "pictures"]
MAX_WEIGHT = 1000
LIMITS = {"tokens_per_minute": (1, MAX_LIMIT), "pictures_per_hour": (1, MAX_LIMIT), "max_queued": (1, MAX_LIMIT),
          "weight": (1, MAX_WEIGHT)}
"""Fields of a key that are numbers: smallest, largest."""


class KeyStore:
    """The keys of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, *, scopes: Iterable[str] = DEFAULT_SCOPES, expires_at: datetime | None = None,
        **limits: int | None,
    ) -> tuple[ApiKey, str]:
        """A new key: its record, and its text, which is kept nowhere.

        Args:
            expires_at: with a time zone.
            limits: `tokens_per_minute`, `pictures_per_hour`, `max_queued`, `weight`; None is no limit.

        Raises:
            InvalidRequest: a name, scope or limit that cannot be. Conflict: there is or was a key of this name.
        """
        scopes = frozenset(scopes)
        _check(name, scopes, limits, expires_at)
        id = new_key_id()
        text = new_key_text(id)
        values = {
            "id": id, "name": name, "secret_sha256": hashed(text), "scopes": " ".join(sorted(scopes)),
            "created_at": now(), "expires_at": _text(expires_at),
            **{field: value for field, value in limits.items() if value is not None}}
        with self._database.write() as connection:
            if connection.scalar(select(api_keys.c.id).where(func.lower(api_keys.c.name) == name.lower())):
                raise Conflict(
                    f"there is or was a key named {name!r}; a name belongs to its jobs for ever: take another one, or "
                    f"make a new secret for this one with: diptych key rotate {name}", param="name")
            connection.execute(api_keys.insert().values(values))
            row = connection.execute(select(api_keys).where(api_keys.c.id == id)).mappings().one()
        return _key(row), text

    def rotate(self, name: str) -> tuple[ApiKey, str]:
        """A new text for a key; the old one is refused from now on. Raises NotFound; Conflict: it is revoked."""
        key = self.get(name)
        if key.revoked_at is not None:
            raise Conflict(f"key {name!r} is revoked; create one under another name", param="name")
        text = new_key_text(key.id)
        return self._change(key.id, {"secret_sha256": hashed(text), "rotated_at": now()}), text

    def revoke(self, name: str) -> ApiKey:
        """From now on it is refused. A second time changes nothing. Raises NotFound."""
        key = self.get(name)
        return key if key.revoked_at is not None else self._change(key.id, {"revoked_at": now()})

    def get(self, name: str) -> ApiKey:
        """Raises NotFound, which names those that there are."""
        found = {key.name: key for key in self.list()}
        if name not in found:
            raise NotFound(f"there is no key {name[:100]!r}; there are: {', '.join(found) or 'none'}", param="name")
        return found[name]

    def list(self) -> builtins.list[ApiKey]:
        """All keys, the revoked ones too, in the order of their making."""
        with self._database.read() as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).mappings()
            return [_key(row) for row in rows]

    def any_valid(self) -> bool:
        """Whether there is a key that is neither revoked nor expired."""
        moment = datetime.now(timezone.utc)
        return any(key.state(moment) == "valid" for key in self.list())

    def queued(self, caller: str) -> int:
        """Jobs of this caller that wait."""
        query = select(func.count()).select_from(jobs).where(
            jobs.c.state == JobState.QUEUED.value, jobs.c.caller == caller)
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def take(self, key: ApiKey, kind: Kind, amount: float, limit: int, seconds: float) -> tuple[bool, float]:
        """Take `amount` of what the key has left of `limit` per `seconds`; what is left refills evenly.

        A negative amount gives back. What is used beyond what was there (an answer that was longer than reserved)
        is taken with `charge`.

        Returns:
            Whether it was taken, and what is left now (nothing is taken when there is not enough).
        """
        return self._use(key, kind, amount, limit, seconds, owing=amount <= 0)

    def charge(self, key: ApiKey, kind: Kind, amount: float, limit: int, seconds: float) -> float:
        """Take `amount`, also where less is left: what is left may become negative. Returns what is left."""
        return self._use(key, kind, amount, limit, seconds, owing=True)[1]

    def _use(
        self, key: ApiKey, kind: Kind, amount: float, limit: int, seconds: float, *, owing: bool,
    ) -> tuple[bool, float]:
        mine = (key_usage.c.key_id == key.id) & (key_usage.c.kind == kind)
        at = time.time()
        with self._database.write() as connection:
            row = connection.execute(select(key_usage).where(mine).with_for_update()).mappings().one_or_none()
            left = float(limit)
            if row is not None:
                left = min(left, row["available"] + max(0.0, at - row["updated_at"]) * limit / seconds)
            enough = owing or left >= amount
            if enough:
                left = min(float(limit), left - amount)
            values = {"available": left, "updated_at": at}
            if row is None:
                connection.execute(key_usage.insert().values(key_id=key.id, kind=kind, **values))
            else:
                connection.execute(key_usage.update().where(mine).values(**values))
        return enough, left

    def _change(self, id: str, values: dict[str, Any]) -> ApiKey:
        with self._database.write() as connection:
            connection.execute(api_keys.update().where(api_keys.c.id == id).values(**values))
            return _key(connection.execute(select(api_keys).where(api_keys.c.id == id)).mappings().one())


def _check(name: str, scopes: frozenset[str], limits: dict[str, int | None], expires_at: datetime | None) -> None:
    if not is_key_name(name):
        raise InvalidRequest(
            f"name is {name[:110]!r}; it must have 1 to 100 letters, digits or any of . _ @ -, begin and end with a "
            "letter or digit, and not be 'local'", param="name")
    unknown = sorted(scopes - SCOPES.keys())
    if unknown or not scopes:
        raise InvalidRequest(
            f"scope {', '.join(map(repr, unknown)) or 'is missing'}: there are {', '.join(SCOPES)}", param="scopes")
    for field, value in limits.items():
        low, high = LIMITS[field]
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{field} is {value}; it must be from {low} to {high}", param=field)
    if expires_at is not None and expires_at <= datetime.now(timezone.utc):
        raise InvalidRequest(f"expires is {expires_at.isoformat()}, which has passed", param="expires")


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds") if moment else None


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(**{**row, "scopes": frozenset(str(row["scopes"]).split())})
