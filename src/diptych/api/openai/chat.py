"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.convert import chat_spec, include_usage
from diptych.api.openai.schema import ChatRequest
from diptych.api.openai.text import answer
from diptych.api.services import Caller, Having

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/chat/completions", openapi_extra=body_of(ChatRequest))
async def chat_completions(
    request: Request, services: Having, caller: Caller, body: Annotated[ChatRequest, json_body(ChatRequest)],
) -> Response:
    """One answer to a conversation, whole or streamed. The run ends when its client goes."""
    spec, with_usage = chat_spec(body), include_usage(body)
    return await answer(request, services, spec, caller, stream=bool(body.stream), with_usage=with_usage)
