"""Scores of categories for texts and pictures, run for a route or for a guard."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence

from diptych.api.services import Services
from diptych.api.tasks.data import all_measured
from diptych.core.cards import Card
from diptych.core.chat import ImagePart
from diptych.core.errors import InvalidRequest
from diptych.text.moderate import CATEGORIES, HARMLESS, kind_of, scores_of, worst_of
from diptych.text.moderate_pictures import installed


async def text_scores(
    services: Services, card: Card, texts: Sequence[str], caller: str, name: Callable[[int], str],
    categories: Sequence[str] = tuple(CATEGORIES),
) -> tuple[list[dict[str, float]], int]:
    """Scores of each text by category (of `categories`: fewer take less time), and the tokens that were read. Raises
    DiptychError; `name` is what the client calls the text with an index."""
    key = ("moderation", card.id, card.fingerprint, tuple(categories))
    worst, tokens = services.baselines.get(key), 0
    if worst is None:
        values = await all_measured(services, [kind_of(card.id, text, categories) for text in HARMLESS], caller,
                                    lambda index: {"messages": "model", "options": "model"})
        worst = worst_of([value["logprobs"] for value in values])
        services.baselines.keep(key, worst)
        tokens += sum(int(value["tokens"]) for value in values)
    values = await all_measured(services, [kind_of(card.id, text, categories) for text in texts], caller,
                                lambda index: {"messages": name(index), "options": name(index)})
    tokens += sum(int(value["tokens"]) for value in values)
    return [scores_of(value["logprobs"], worst, categories) for value in values], tokens


async def image_scores(services: Services, pictures: Sequence[ImagePart], where: str) -> list[dict[str, float]]:
    """Scores of each picture by category. Raises InvalidRequest where the packages for it are not installed."""
    if not installed():
        raise InvalidRequest(
            f"{where}: pictures are looked at with the packages nudenet and onnxruntime, which are not installed here; "
            "pip install 'diptych[moderation]'", param=where, code="not_installed")
    raws = [base64.b64decode(picture.data) for picture in pictures]
    found = await asyncio.to_thread(services.pictures.scores, raws)
    return [{**dict.fromkeys(CATEGORIES, 0.0), **scores} for scores in found]
