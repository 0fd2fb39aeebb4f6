"""`POST /v1/responses`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.live import Told, ended_early, first_of, ready, runs
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.responses_answers import Built
from diptych.api.openai.responses_convert import response_spec
from diptych.api.openai.responses_schema import ResponsesRequest
from diptych.api.services import Caller, Having
from diptych.api.streams import EventStream, attended, sse
from diptych.api.tasks.guard_fields import guards_of
from diptych.core.errors import DiptychError

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/responses", openapi_extra=body_of(ResponsesRequest))
async def responses(
    request: Request, services: Having, caller: Caller, body: Annotated[ResponsesRequest, json_body(ResponsesRequest)],
) -> Response:
    """One answer to a conversation, whole or streamed. It is not stored: `previous_response_id` is refused."""
    spec = await asyncio.to_thread(response_spec, body, Pictures(services.settings))
    work = await ready(services, spec, guards_of(body, services.settings), "input",
                       models=body.models or (), whole=not body.stream)
    events = runs(services, [work], 1, caller)
    built = Built(body, spec, work.card.id)
    if not body.stream:
        found = await attended(request, _whole(events, built))
        return JSONResponse({**found, "model": work.model})
    await attended(request, first_of(events))
    built.response["model"] = work.model
    return EventStream(_pieces(events, built))


async def _whole(events: AsyncGenerator[Told, None], built: Built) -> dict[str, Any]:
    async with contextlib.aclosing(events):
        async for _, event in events:
            for _ in built.take(event):
                pass
    if not built.ended:
        raise ended_early()
    return built.response


async def _pieces(events: AsyncGenerator[Told, None], built: Built) -> AsyncGenerator[str, None]:
    """Server-sent events; a failure half-way is the event `response.failed`."""
    try:
        async with contextlib.aclosing(events):
            for piece in built.begin():
                yield sse(piece, piece["type"])
            async for _, event in events:
                for piece in built.take(event):
                    yield sse(piece, piece["type"])
            if not built.ended:
                raise ended_early()
    except DiptychError as error:
        piece = built.failed(error)
        yield sse(piece, piece["type"])
