"""`GET /v1/models`."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from diptych.api.services import Having
from diptych.core.cards import Card

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class ModelObject(BaseModel):
    """`created` is the age of its files; `panel`: text or image."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "diptych"
    panel: str


class ModelPage(BaseModel):
    object: str = "list"
    data: list[ModelObject]


@router.get("/models")
async def list_models(services: Having) -> ModelPage:
    """All models on disk, of other servers, and the routes."""
    cards = await asyncio.to_thread(services.library.cards)
    routes = services.router.routes
    return ModelPage(data=[*(_object(card) for card in cards if card.id not in routes), *map(_route, routes)])


@router.get("/models/{id:path}")
async def get_model(services: Having, id: str) -> ModelObject:
    """One model."""
    if id in services.router.routes:
        return _route(id)
    return await asyncio.to_thread(lambda: _object(services.library.get(id)))


def _route(name: str) -> ModelObject:
    return ModelObject(id=name, created=0, owned_by="route", panel="text")


def _object(card: Card) -> ModelObject:
    created: Any = 0
    with contextlib.suppress(OSError):
        created = Path(card.path).stat().st_mtime
    return ModelObject(id=card.id, created=int(created), panel=card.panel)
