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
    """All models on disk."""
    return await asyncio.to_thread(lambda: ModelPage(data=[_object(card) for card in services.library.cards()]))


@router.get("/models/{id:path}")
async def get_model(services: Having, id: str) -> ModelObject:
    """One model."""
    return await asyncio.to_thread(lambda: _object(services.library.get(id)))


def _object(card: Card) -> ModelObject:
    created: Any = 0
    with contextlib.suppress(OSError):
        created = Path(card.path).stat().st_mtime
    return ModelObject(id=card.id, created=int(created), panel=card.panel)
