"""`/api/parts`: adapters, embeddings, VAEs, ControlNets and other files that are used together with image models."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from diptych.api.services import Having
from diptych.core.cards import PartCard, PartKind

router = APIRouter(prefix="/api/parts", tags=["models"])


class PartList(BaseModel):
    parts: list[PartCard] = Field(description="sorted by kind and id")


@router.get("")
async def list_parts(
    services: Having, kind: Annotated[PartKind | None, Query(description="only those of this kind")] = None,
) -> PartList:
    """All files in the model folders that are used together with image models, by their headers: what they are, which
    family of models they fit, and the words an adapter was trained on."""
    return PartList(parts=await asyncio.to_thread(services.library.parts, kind))
