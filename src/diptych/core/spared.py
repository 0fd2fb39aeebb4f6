"""Parts of libraries that the server never uses are not loaded: they would be a good part of a start's time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

SPARED = ("httpx._main", "pydantic.v1")
"""httpx's own command (with rich and pygments), and the models of pydantic 1 that FastAPI looks for. Both libraries go
on where these cannot be imported."""


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Within, importing one of `SPARED` fails with ImportError, unless it has been imported before."""
    absent = [name for name in SPARED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
