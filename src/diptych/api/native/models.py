"""`/api/models`: the library, and what of it is loaded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.requests import Request

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.native.convert import model_view
from diptych.api.native.schema import LoadRequest, ModelList, ModelRequest, ModelView, PullRequest, Unloaded
from diptych.api.services import Having, Services
from diptych.api.streams import EventStream, attended, sse
from diptych.core.cards import Card
from diptych.core.errors import DiptychError
from diptych.schedule.pool import RunnerInfo

router = APIRouter(prefix="/api/models", tags=["models"])


@router.get("")
async def list_models(services: Having) -> ModelList:
    """All models on disk, and what is wrong with those that cannot be used."""
    cards = await asyncio.to_thread(services.library.cards)
    problems = await asyncio.to_thread(services.library.problems)
    runners = services.dispatcher.runners()
    return ModelList(models=[model_view(card, runners) for card in cards], problems=problems)


@router.post("/load", openapi_extra=body_of(LoadRequest))
async def load(
    request: Request, services: Having, body: Annotated[LoadRequest, json_body(LoadRequest)],
) -> RunnerInfo:
    """Load a model now, so that its first request does not wait. Answers when it can serve. A pinned one stays until
    it is unloaded."""
    return await attended(request, services.dispatcher.load(body.model, body.pinned))


@router.post("/unload", openapi_extra=body_of(ModelRequest))
async def unload(services: Having, body: Annotated[ModelRequest, json_body(ModelRequest)]) -> Unloaded:
    """End a model's process, which frees its memory. Jobs that it works on go back to the queue."""
    await services.dispatcher.unload(body.model)
    return Unloaded(model=body.model)


@router.post("/pull", openapi_extra=body_of(PullRequest), response_model=ModelView)
async def pull(services: Having, body: Annotated[PullRequest, json_body(PullRequest)]) -> Any:
    """Get one of the starter models and check that it is whole. Goes on when the client goes.

    With `stream`, server-sent events: `progress` with a `message`, then `finished` with the model, or `error`.
    """
    if body.stream:
        return EventStream(_progress(services, body.model))
    card = await services.pulls.result(body.model)
    return model_view(card, services.dispatcher.runners())


async def _progress(services: Services, model: str) -> AsyncGenerator[str, None]:
    try:
        async with contextlib.aclosing(services.pulls.lines(model)) as lines:
            async for line in lines:
                if isinstance(line, Card):
                    found = model_view(line, services.dispatcher.runners()).model_dump(mode="json")
                    yield sse({"type": "finished", "model": found}, event="finished")
                else:
                    yield sse({"type": "progress", "message": line}, event="progress")
    except DiptychError as error:
        yield sse({"type": "error", **error.body()}, event="error")
