"""Scores of categories for texts and pictures, run for a route or for a guard."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from collections.abc import Callable, Sequence

from diptych.api.services import Services
from diptych.api.tasks.data import all_measured
from diptych.core.cards import Card
from diptych.core.chat import ImagePart
from diptych.core.errors import InvalidRequest
from diptych.text.moderate import CATEGORIES, HARMLESS, kind_of, scores_of, worst_of
from diptych.text.moderate_pictures import picture_scores

NUDENET = "nudenet"


async def text_scores(
    services: Services, card: Card, texts: Sequence[str], caller: str, name: Callable[[int], str],
) -> tuple[list[dict[str, float]], int]:
    """Scores of each text by category, and the tokens that were read. Raises DiptychError; `name` is what the client
    calls the text with an index."""
    key = ("moderation", card.id, card.fingerprint)
    worst, tokens = services.baselines.get(key), 0
    if worst is None:
        values = await all_measured(services, [kind_of(card.id, text) for text in HARMLESS], caller,
                                    lambda index: {"messages": "model", "options": "model"})
        worst = worst_of([value["logprobs"] for value in values])
        services.baselines.keep(key, worst)
        tokens += sum(int(value["tokens"]) for value in values)
    values = await all_measured(services, [kind_of(card.id, text) for text in texts], caller,
                                lambda index: {"messages": name(index), "options": name(index)})
    tokens += sum(int(value["tokens"]) for value in values)
    return [scores_of(value["logprobs"], worst) for value in values], tokens


async def image_scores(pictures: Sequence[ImagePart], where: str) -> list[dict[str, float]]:
    """Scores of each picture by category. Raises InvalidRequest where the package for it is not installed."""
    if importlib.util.find_spec(NUDENET) is None or importlib.util.find_spec("onnxruntime") is None:
        raise InvalidRequest(
            f"{where}: pictures are looked at with the packages nudenet and onnxruntime, which are not installed here; "
            "pip install nudenet", param=where, code="not_installed")
    raws = [base64.b64decode(picture.data) for picture in pictures]
    found = await asyncio.to_thread(picture_scores, raws)
    return [{**dict.fromkeys(CATEGORIES, 0.0), **scores} for scores in found]
