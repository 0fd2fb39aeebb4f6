"""Addresses of files that work without a key for a while: clients fetch the `url` of a picture as it stands."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import parse_qs

LINK_SECONDS = 3600


class Links:
    """Signed with a secret of this process: they end with it."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def signed(self, path: str) -> str:
        """`path` with what opens it for an hour. A link opens this very path and nothing else."""
        until = int(time.time()) + LINK_SECONDS
        return f"{path}?until={until}&signature={self._signature(path, until)}"

    def valid(self, path: str, query: bytes) -> bool:
        """Whether `query` is what `signed` put behind `path`, and not too old."""
        if b"signature=" not in query:
            return False
        given = parse_qs(query.decode("latin-1"))
        until, signature = given.get("until", [""])[0], given.get("signature", [""])[0]
        if not (until.isascii() and until.isdigit() and len(until) < 20 and signature.isascii()):
            return False
        return int(until) >= time.time() and hmac.compare_digest(signature, self._signature(path, int(until)))

    def _signature(self, path: str, until: int) -> str:
        text = f"{path}\n{until}".encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
