"""API keys: what a key may do, and its text. Pure; the store keeps them, the gateway asks for them.

A key reads `dk_<id>_<secret>`: the id finds its record, the secret is 256 random bits. So many bits cannot be guessed
or tried out, whatever the hash costs: one SHA-256 keeps a stolen database useless, and a slow password hash would only
make every request slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

SCOPES: dict[str, str] = {
    "chat": "answers in text: chat, completions, embeddings",
    "images": "pictures",
    "jobs": "look at, follow and cancel own jobs, and their files",
    "models:read": "list models",
    "models:write": "load, unload and pull models",
    "metrics": "read /metrics",
    "admin": "everything, also the jobs of others and the keys",
}
"""Name of a scope: what it allows."""
DEFAULT_SCOPES = frozenset({"chat", "images", "jobs", "models:read"})
LOCAL = "local"
"""Caller of requests without a key."""
MAX_LIMIT = 2**31 - 1
_TEXT = re.compile(r"dk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,98}[A-Za-z0-9])?")


class ApiKey(BaseModel):
    """The record of a key. Limits that are None do not bound. Times are UTC.

    `name` is the caller of its jobs, and never given to another key. `weight`: its share beside other callers.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    secret_sha256: str = Field(repr=False, exclude=True)
    scopes: frozenset[str]
    tokens_per_minute: int | None = None
    pictures_per_hour: int | None = None
    max_queued: int | None = None
    weight: int = 1
    created_at: datetime
    rotated_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"

    def allows(self, scope: str) -> bool:
        return "admin" in self.scopes or scope in self.scopes


def new_key_text(id: str) -> str:
    """A fresh key of the record `id`."""
    return f"dk_{id}_{secrets.token_urlsafe(32)}"


def new_key_id() -> str:
    return secrets.token_hex(6)


def key_id(text: str) -> str | None:
    """Id in a key's text; None for what can be no key of ours."""
    found = _TEXT.fullmatch(text)
    return found[1] if found else None


def hashed(text: str) -> str:
    """SHA-256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def matches(text: str, key: ApiKey) -> bool:
    """Whether `text` is this key; takes the same time wherever they differ."""
    return hmac.compare_digest(hashed(text), key.secret_sha256)


def is_key_name(name: str) -> bool:
    """1 to 100 letters, digits and `._@-`, beginning and ending with a letter or digit; not the keyless caller's."""
    return _NAME.fullmatch(name) is not None and name.lower() != LOCAL


def redacted(text: str) -> str:
    """`text` with every key in it cut down to its id."""
    return _TEXT.sub(r"dk_\1_***", text)
