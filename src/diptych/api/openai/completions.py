"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.convert import answers_of, completion_specs, include_usage
from diptych.api.openai.schema import CompletionRequest
from diptych.api.openai.text import Asked, answer
from diptych.api.services import Caller, Having
from diptych.api.tasks.guard_fields import guards_of

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/completions", openapi_extra=body_of(CompletionRequest))
async def completions(
    request: Request, services: Having, caller: Caller,
    body: Annotated[CompletionRequest, json_body(CompletionRequest)],
) -> Response:
    """Continue texts as they stand, without a chat template; with `suffix`, fill the gap before it."""
    count, with_usage = answers_of(body, body.best_of), include_usage(body)
    asked = Asked(count, body.n or 1, stream=bool(body.stream), with_usage=with_usage,
                  models=tuple(body.models or ()), stop_shown=bool(body.include_stop_str_in_output),
                  logprobs=body.logprobs is not None)
    return await answer(request, services, completion_specs(body), caller, asked,
                        guards_of(body, services.settings))
