"""Importing much at once, as a process of ours does when it starts."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

SPARED = ("httpx._main", "pydantic.v1")
"""What the server never uses: httpx's own command (with rich and pygments), and the models of pydantic 1 that FastAPI
looks for. Both libraries go on where these cannot be imported."""


@contextlib.contextmanager
def importing(*spared: str) -> Iterator[None]:
    """Within, nothing is garbage collected: looking for garbage among what lasts is an eighth of an import's time. What
    was imported is left out of later collections, too. Importing one of `spared`, unless it has been before, fails with
    ImportError."""
    absent = [name for name in spared if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
        gc.freeze()
        for name in absent:
            sys.modules.pop(name, None)
