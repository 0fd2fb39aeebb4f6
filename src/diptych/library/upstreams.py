"""Models of other servers, as cards."""

from __future__ import annotations

import hashlib

from diptych.core.cards import Card
from diptych.settings import Settings


def upstream_cards(settings: Settings) -> dict[str, Card]:
    """A card for each model that the settings name, by id `<upstream>/<model>`."""
    cards = {}
    for name, upstream in settings.upstreams.items():
        for model in upstream.models:
            id = f"{name}/{model}"
            cards[id] = Card(
                id=id, panel="text", family="upstream", format="upstream", path=name, bytes=0, name=model,
                context=upstream.context, tasks=upstream.tasks, tools=True, vision=upstream.vision,
                fingerprint=hashlib.sha256(f"{upstream.url or upstream.vllm} {model}".encode()).hexdigest()[:10])
    return cards
