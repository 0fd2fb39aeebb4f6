"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.convert import completion_spec, include_usage
from diptych.api.openai.schema import CompletionRequest
from diptych.api.openai.text import answer
from diptych.api.services import Caller, Having

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/completions", openapi_extra=body_of(CompletionRequest))
async def completions(
    request: Request, services: Having, caller: Caller,
    body: Annotated[CompletionRequest, json_body(CompletionRequest)],
) -> Response:
    """Continue a text as it stands, without a chat template."""
    spec, with_usage = completion_spec(body), include_usage(body)
    return await answer(request, services, spec, caller, stream=bool(body.stream), with_usage=with_usage)
