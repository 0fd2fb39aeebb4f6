"""What a place in the queue is given and looked at with: a spec that is settled, the cards of the models that are
waited for, and who is beside whom."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from diptych.core.cards import Card
from diptych.core.checks import picture_size
from diptych.core.errors import DiptychError
from diptych.core.jobs import Priority
from diptych.core.specs import FinishSpec, JobSpec
from diptych.library import Library
from diptych.schedule.execution import Execution
from diptych.schedule.fairness import CLASSES
from diptych.store.lines import Waiting


def settled(spec: JobSpec, card: Card) -> JobSpec:
    """The spec with its size in pixels, its seed and its model's id, so that it is the same job whenever it runs. A
    size that follows from the picture it starts from is left to the engine."""
    if isinstance(spec, FinishSpec):
        seed = secrets.randbelow(2**32) if spec.seed < 0 else spec.seed
        return spec.model_copy(update={"seed": seed, "model": card.id})
    width, height = (spec.width, spec.height) if spec.init_image is not None else picture_size(spec, card)
    seed = secrets.randbelow(2**32) if spec.seed < 0 else spec.seed
    return spec.model_copy(update={"width": width, "height": height, "seed": seed, "model": card.id})


def cards_of(library: Library, models: Iterable[str]) -> dict[str, Card | DiptychError]:
    """The card of each model, or why there is none. Blocking."""
    found: dict[str, Card | DiptychError] = {}
    for model in models:
        try:
            found[model] = library.get(model)
        except DiptychError as error:
            found[model] = error
    return found


def is_newcomer(job: Waiting, beside: Iterable[Execution]) -> bool:
    """Whether none of these runs is of the same caller and of the same class or one above it."""
    return not any(other.job.caller == job.caller and _level(other.job.priority) <= _level(job.priority)
                   for other in beside)


def _level(priority: Priority) -> int:
    return CLASSES.index(priority)
