"""`POST /v1/fim/completions`: Mistral's endpoint for filling a gap in code."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.checked import checked
from diptych.api.openai.convert import answers_of, include_usage
from diptych.api.openai.sampling import adapters_of, sampling_of, truncation_of
from diptych.api.openai.schema import ModelId, SamplingFields
from diptych.api.openai.text import Asked, answer
from diptych.api.openai.tools import format_of
from diptych.api.openai.unsupported import COMPLETION, refuse_unsupported
from diptych.api.services import Caller, Having
from diptych.api.tasks.guard_fields import guards_of
from diptych.core.specs import CompletionSpec

router = APIRouter(prefix="/v1/fim", tags=["Mistral"])


class FimRequest(SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "prompt": "def add(a, b):\n", "max_tokens": 32, "temperature": 0}]})

    model: ModelId
    prompt: str = Field(min_length=1, description="the text before the gap")
    suffix: str | None = Field(None, description="the text behind the gap; without one the prompt is continued")


@router.post("/completions", openapi_extra=body_of(FimRequest))
async def fim_completions(
    request: Request, services: Having, caller: Caller, body: Annotated[FimRequest, json_body(FimRequest)],
) -> Response:
    """Fill the gap between `prompt` and `suffix`; answered in the shape of a chat completion, whole or streamed."""
    refuse_unsupported(body, COMPLETION)
    count, with_usage = answers_of(body), include_usage(body)
    common: dict[str, Any] = {"format": format_of(body), "adapters": adapters_of(body),
                              **truncation_of(body.truncation)}
    spec = checked(CompletionSpec, model=body.model, prompt=body.prompt, suffix=body.suffix or None,
                   sampling=sampling_of(body, body.max_tokens, None), **common)
    asked = Asked(count, count, stream=bool(body.stream), with_usage=with_usage or bool(body.stream), shape="chat",
                  models=tuple(body.models or ()), stop_shown=bool(body.include_stop_str_in_output))
    return await answer(request, services, [spec], caller, asked, guards_of(body, services.settings))
