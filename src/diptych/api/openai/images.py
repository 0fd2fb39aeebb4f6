"""`POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.openai.convert import picture_spec
from diptych.api.openai.edits import EDIT_NAMES, edit_spec, read_edit, read_variation, variation_spec
from diptych.api.openai.forms import form_of
from diptych.api.openai.image_answers import answered
from diptych.api.openai.schema import EditRequest, ImageRequest, VariationRequest
from diptych.api.services import Caller, Having

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/images/generations", openapi_extra=body_of(ImageRequest))
async def generations(
    request: Request, services: Having, caller: Caller, body: Annotated[ImageRequest, json_body(ImageRequest)],
) -> Response:
    """Pictures of one prompt. The job is cancelled when its client goes; finished pictures stay in the gallery."""
    return await answered(request, services, caller, body, picture_spec(body))


@router.post("/images/edits", openapi_extra=form_of(EditRequest, ("image",), ("mask",)))
async def edits(request: Request, services: Having, caller: Caller) -> Response:
    """A picture, repainted by a prompt: where the mask, or the picture itself, is transparent; all of it where neither
    is. What is not repainted stays as it is, byte for byte."""
    body, files = await read_edit(request)
    spec = await edit_spec(services, body, files)
    return await answered(request, services, caller, body, spec, "image_edit", EDIT_NAMES)


@router.post("/images/variations", openapi_extra=form_of(VariationRequest, ("image",), ()))
async def variations(request: Request, services: Having, caller: Caller) -> Response:
    """Other pictures like this one. A picture that was made here is varied with the prompt it was made of."""
    body, files = await read_variation(request)
    spec = await variation_spec(services, body, files)
    return await answered(request, services, caller, body, spec, "image_edit", EDIT_NAMES)
