"""How the runners that work at one moment share the processor. Pure; the figures behind it are in
docs/decisions/0006-processor-shares.md."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from diptych.core.cards import Card


class Worker(BaseModel):
    """A runner that computes now. `threads` is what it has; where that is `fixed` it was set when the model was
    loaded."""

    model_config = ConfigDict(frozen=True)

    id: str
    threads: int = Field(ge=1)
    fixed: bool = False


def share_threads(cores: int, workers: Iterable[Worker]) -> dict[str, int]:
    """Threads of every worker that is not fixed: those together get what the fixed ones leave of `cores`, evenly, the
    first of them the remainder; each gets one at least. Alone, a worker has all cores."""
    working = list(workers)
    free = [worker for worker in working if not worker.fixed]
    if not free:
        return {}
    left = max(len(free), cores - sum(worker.threads for worker in working if worker.fixed))
    even, rest = divmod(left, len(free))
    return {worker.id: even + (position < rest) for position, worker in enumerate(free)}


def threads_to_load(card: Card, cores: int, text_threads: int = 0) -> int:
    """Threads that a runner is loaded with. A language model keeps its number for good, so it is loaded with half of
    the cores, the other half being the pictures'; `text_threads` says otherwise."""
    if card.panel != "text":
        return cores
    return min(text_threads, cores) if text_threads else max(1, cores // 2)
