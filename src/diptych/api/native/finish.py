"""`/api/finish`: upscale, repair, cut out and mark pictures that are there. And reading an invisible watermark."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import refusal
from diptych.api.native.convert import job_view
from diptych.api.native.inputs import values_of
from diptych.api.native.schema import Body, JobView, PriorityName
from diptych.api.services import Caller, Having, Who
from diptych.core.finish import FinishOptions
from diptych.core.image_options import MAX_PROMPT, MAX_SEED, ModelId, PictureRef
from diptych.core.jobs import Priority
from diptych.core.specs import FinishSpec
from diptych.core.watermark import detect

router = APIRouter(prefix="/api", tags=["jobs"])
_PICTURE = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class FinishRequest(FinishOptions, Body):
    """Work on one picture, in the stages of `finish`."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"image": _PICTURE, "finish": [{"kind": "upscale", "model": "realesrgan-x4plus", "factor": 4.0}]},
        {"image": _PICTURE, "finish": [{"kind": "background", "model": "u2net"}]},
        {"image": _PICTURE, "nsfw": "blur", "finish": [
            {"kind": "detail", "detect": "face", "prompt": "a detailed face", "strength": 0.4},
            {"kind": "watermark", "text": "my studio", "position": "bottom-right"}, {"kind": "invisible"}]},
    ]})

    image: PictureRef
    model: ModelId = "starter"
    prompt: str = Field("", max_length=MAX_PROMPT, description="what stages paint that have no prompt of their own")
    negative_prompt: str = Field("", max_length=MAX_PROMPT, description="what they keep out")
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="of what stages paint; -1: any")
    priority: PriorityName = Field("interactive", description="class of work; served in this order")


class WatermarkRequest(Body):
    """A picture that may have an invisible mark."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _PICTURE}]})

    image: PictureRef


class WatermarkView(BaseModel):
    """`payload` is null where no mark is found; bytes that are no text are shown with the sign for that."""

    found: bool
    payload: str | None


@router.post("/finish", status_code=201, openapi_extra=body_of(FinishRequest))
async def finish(
    services: Having, caller: Caller, who: Who, response: Response,
    body: Annotated[FinishRequest, json_body(FinishRequest, pictures=True)],
) -> JobView:
    """Accept a job that works on a picture: upscale, detail, background, watermark, invisible, in the order given. It
    is a job like any other: GET /api/jobs/{id} tells how far it is, its artifact is the picture."""
    values = await values_of(services, who, body)
    priority = Priority(values.pop("priority"))
    try:
        spec = FinishSpec.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from None
    job = await services.dispatcher.submit(spec, caller=caller, priority=priority)
    response.headers["location"] = f"/api/jobs/{job.id}"
    return job_view(job)


@router.post("/watermark", openapi_extra=body_of(WatermarkRequest))
async def read_watermark(
    services: Having, who: Who, body: Annotated[WatermarkRequest, json_body(WatermarkRequest, pictures=True)],
) -> WatermarkView:
    """Read the invisible mark that `invisible` puts into a picture, if there is one."""
    values = await values_of(services, who, body)
    path = services.inputs.path(values["image"], param="image")

    def read() -> bytes | None:
        import numpy
        from PIL import Image

        with Image.open(path) as opened:
            return detect(numpy.asarray(opened.convert("RGB")))

    found = await asyncio.to_thread(read)
    return WatermarkView(found=found is not None, payload=None if found is None else found.decode("utf-8", "replace"))


FINISH_BODIES: list[type[BaseModel]] = [FinishRequest, WatermarkRequest]
