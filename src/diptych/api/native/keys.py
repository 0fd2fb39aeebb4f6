"""`/api/keys/self`: what the key of a request may do, for programs that hold one."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from diptych.api.services import Having, Who
from diptych.core.keys import SCOPES

router = APIRouter(prefix="/api/keys", tags=["keys"])


class KeyView(BaseModel):
    """`id` is null for the owner of this machine, who needs no key. Limits that are null do not bound."""

    id: str | None
    caller: str = Field(description="who the jobs of this key belong to")
    scopes: list[str]
    tokens_per_minute: int | None = None
    pictures_per_hour: int | None = None
    max_queued: int | None = None
    weight: int = 1
    expires_at: datetime | None = None
    key_required: bool = Field(description="whether this server answers requests without a key")


@router.get("/self")
async def own_key(services: Having, who: Who) -> KeyView:
    """Who asks, with which scopes and limits."""
    required = services.keys.required
    if who.key is None:
        return KeyView(id=None, caller=who.caller, scopes=sorted(SCOPES), key_required=required)
    values = who.key.model_dump(include=set(KeyView.model_fields) - {"scopes"})
    return KeyView(caller=who.caller, scopes=sorted(who.key.scopes), key_required=required, **values)
