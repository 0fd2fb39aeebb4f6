"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.convert import answers_of, chat_spec, include_usage
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.schema import ChatRequest
from diptych.api.openai.text import WHOLE_CALLS, Asked, answer
from diptych.api.services import Caller, Having
from diptych.api.tasks.documents import TOO_LONG, grounding_of
from diptych.api.tasks.guard_fields import guards_of
from diptych.core.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/chat/completions", openapi_extra=body_of(ChatRequest))
async def chat_completions(
    request: Request, services: Having, caller: Caller, body: Annotated[ChatRequest, json_body(ChatRequest)],
) -> Response:
    """Answers to a conversation, whole or streamed. The runs end when their client goes."""
    count, with_usage = answers_of(body), include_usage(body)
    pictures = Pictures(services.settings)
    if any(isinstance(message.content, list) for message in body.messages):
        spec = await asyncio.to_thread(chat_spec, body, pictures)  # pictures are decoded, and may be fetched
    else:
        spec = chat_spec(body, pictures)
    asked = Asked(
        count, count, stream=bool(body.stream), with_usage=with_usage, stop_shown=bool(body.include_stop_str_in_output),
        models=tuple(body.models or ()), old_calls=body.functions is not None,
        whole_calls=request.headers.get("user-agent", "").startswith(WHOLE_CALLS))
    guards = guards_of(body, services.settings)
    grounding = await grounding_of(services, body, spec, caller)
    if grounding is None:
        return await answer(request, services, [spec], caller, asked, guards)
    attempts = grounding.attempts()
    attempt = await asyncio.to_thread(next, attempts)
    while True:
        try:
            return await answer(request, services, [attempt.spec], caller, replace(asked, grounded=attempt), guards)
        except InvalidRequest as error:
            fewer = await asyncio.to_thread(next, attempts, None) if error.code == TOO_LONG else None
            if fewer is None:
                raise
            attempt = fewer
