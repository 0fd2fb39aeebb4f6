"""What every engine offers to the runner process around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from diptych.core.events import Event
from diptych.core.protocol import LoadRequest, RunRequest

Emit = Callable[[Event], None]
"""Takes one event of a run; may be called from any thread, and must not block."""


class Engine(Protocol):
    """One model on one device, and the work it does. One instance per runner process."""

    name: str
    """ "image" or "llamacpp"."""

    def load(self, request: LoadRequest) -> None:
        """Load the model; blocks until it can serve. Called once.

        Raises:
            DiptychError: the folder or file cannot be served, and why.
        """
        ...

    def submit(self, request: RunRequest, emit: Emit) -> None:
        """Accept a run and return at once. Events go to `emit`; the last one is `Finished` or `Failed`.

        Raises:
            DiptychError: the request cannot be carried out as it is; then `emit` is never called.
        """
        ...

    def cancel(self, id: str) -> bool:
        """Ask the run to end with `Finished(reason="cancelled")` at its next step or token; False if there is none."""
        ...

    def close(self) -> None:
        """End all runs and free what the engine holds; no event is emitted after it returns."""
        ...


@runtime_checkable
class Threaded(Protocol):
    """An engine whose number of compute threads can change while it works."""

    @property
    def threads(self) -> int | None:
        """None before a model is loaded."""
        ...

    def set_threads(self, threads: int) -> None:
        """From the next step on. May be called from any thread, and does not block."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """An engine that measures the memory of its work."""

    def passes(self) -> dict[str, int]:
        """Bytes that each kind of pass took at most beyond the loaded model: "WIDTHxHEIGHTxPICTURES" or
        "WIDTHxHEIGHT decode"."""
        ...
