"""`POST /v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients speak."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.anthropic.answers import Blocks, whole
from diptych.api.anthropic.convert import message_spec, prompt_spec
from diptych.api.anthropic.schema import CountTokensRequest, MessagesRequest
from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import anthropic_body
from diptych.api.live import Told, ended_early, first_of, ready, runs
from diptych.api.openai.answers import Said
from diptych.api.openai.pictures import Pictures
from diptych.api.services import Caller, Having
from diptych.api.streams import EventStream, attended, sse
from diptych.api.tasks.guard_fields import guards_of
from diptych.core.errors import DiptychError
from diptych.core.specs import Sampling

router = APIRouter(prefix="/v1/messages", tags=["Anthropic"])


@router.post("", openapi_extra=body_of(MessagesRequest))
async def messages(
    request: Request, services: Having, caller: Caller, body: Annotated[MessagesRequest, json_body(MessagesRequest)],
) -> Response:
    """One answer to a conversation, whole or streamed. The run ends when its client goes."""
    spec = await asyncio.to_thread(message_spec, body, Pictures(services.settings))
    work = await ready(services, spec, guards_of(body, services.settings), models=body.models or (),
                       whole=not body.stream)
    events = runs(services, [work], 1, caller)
    id = f"msg_{secrets.token_hex(12)}"
    if not body.stream:
        said = await attended(request, _gathered(events))
        return JSONResponse(whole(id, work.model, said), headers={"request-id": id})
    await attended(request, first_of(events))
    return EventStream(_pieces(events, Blocks(id, work.model)))


@router.post("/count_tokens", openapi_extra=body_of(CountTokensRequest))
async def count_tokens(
    request: Request, services: Having, caller: Caller,
    body: Annotated[CountTokensRequest, json_body(CountTokensRequest)],
) -> dict[str, Any]:
    """How many tokens the prompt of this conversation has, with the model's own template. The model reads it for that,
    so that the same conversation is then answered from its cache."""
    spec = await asyncio.to_thread(prompt_spec, body, Pictures(services.settings), Sampling(max_tokens=1))
    work = await ready(services, spec)
    said = await attended(request, _gathered(runs(services, [work], 1, caller)))
    return {"input_tokens": int(said.metrics.get("prompt_tokens", 0))}


async def _gathered(events: AsyncGenerator[Told, None]) -> Said:
    said = Said()
    async with contextlib.aclosing(events):
        async for _, event in events:
            said.take(event)
    if said.finished is None:
        raise ended_early()
    return said


async def _pieces(events: AsyncGenerator[Told, None], blocks: Blocks) -> AsyncGenerator[str, None]:
    """Server-sent events; a failure half-way is the event `error`, and nothing follows it."""
    try:
        async with contextlib.aclosing(events):
            name, data = blocks.begin()
            yield sse(data, name)
            async for _, event in events:
                for name, data in blocks.take(event):
                    yield sse(data, name)
            if name != "message_stop":
                raise ended_early()
    except DiptychError as error:
        yield sse(anthropic_body(error), "error")
