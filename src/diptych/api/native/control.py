"""`/api/control`: what a preprocessor makes of a picture, without painting anything."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.native.inputs import InputPictures
from diptych.api.services import Having, Who
from diptych.core.control import Preprocessing
from diptych.core.image_options import PictureRef
from diptych.core.preprocessors import PREPROCESSORS, Threshold
from diptych.preprocess.run import FOLDER, control_map
from diptych.settings import Settings

router = APIRouter(prefix="/api/control", tags=["jobs"])
MAX_SIDE = 4096
"""Pixels of a map; larger pictures are scaled down."""
PathOf = Callable[[str], Path]
_BINARY = {"type": "string", "format": "binary"}
_PNG: dict[int | str, dict[str, object]] = {200: {"content": {"image/png": {"schema": _BINARY}}}}


class PreprocessRequest(Preprocessing):
    """A picture, and how it becomes a control map."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"image": "artifact:8c0c9d1e2f3a4b5c6d7e8f90a1b2c3d4-0", "preprocessor": "canny", "threshold_a": 100,
         "threshold_b": 200}]})

    image: PictureRef = Field(description=(
        "base64, a data: URL, artifact:ID, or the sha256:… of an uploaded picture"))
    width: int | None = Field(None, ge=8, le=4096, description="pixels of the map; the picture's own when left out")
    height: int | None = Field(None, ge=8, le=4096, description="pixels of the map; the picture's own when left out")


class ThresholdView(BaseModel):
    """One of the two numbers of a preprocessor."""

    what: str
    default: float
    low: float
    high: float


class PreprocessorView(BaseModel):
    """`ready`: all `files` that it needs are there, in the folder `preprocessors` of the models folder."""

    name: str
    about: str
    threshold_a: ThresholdView | None
    threshold_b: ThresholdView | None
    files: list[str]
    ready: bool


@router.post("/preprocess", response_class=Response, responses=_PNG, openapi_extra=body_of(PreprocessRequest))
async def preprocess(
    services: Having, who: Who, body: Annotated[PreprocessRequest, json_body(PreprocessRequest, pictures=True)],
) -> Response:
    """The control map of a picture, as a PNG: what a ControlNet will see. Nothing is painted and nothing is kept but
    the picture."""
    png = await asyncio.to_thread(_map, InputPictures(services, who), services.settings, services.inputs.path, body)
    return Response(png, media_type="image/png")


@router.get("/preprocessors")
async def preprocessors(services: Having) -> list[PreprocessorView]:
    """All preprocessors, with what they take and need."""
    there = await asyncio.to_thread(preprocessor_files, services.settings)
    return [PreprocessorView(
        name=name, about=traits.about, threshold_a=_threshold(traits.a), threshold_b=_threshold(traits.b),
        files=list(traits.files), ready=all(file in there for file in traits.files))
        for name, traits in PREPROCESSORS.items()]


def preprocessor_files(settings: Settings) -> dict[str, str]:
    """Paths of the files of preprocessors that are there, by name."""
    folder = settings.models_dir / FOLDER
    names = {file for traits in PREPROCESSORS.values() for file in traits.files}
    return {name: str(folder / name) for name in sorted(names) if (folder / name).is_file()}


def _map(pictures: InputPictures, settings: Settings, path_of: PathOf, body: PreprocessRequest) -> bytes:
    with Image.open(path_of(pictures.place(body.image, "image"))) as picture:
        share = min(1.0, MAX_SIDE / max(picture.size))
        own = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        size = (body.width or own[0], body.height or own[1])
        made = control_map(picture, body, size, preprocessor_files(settings))
    buffer = io.BytesIO()
    Image.fromarray(made).save(buffer, format="PNG")
    return buffer.getvalue()


def _threshold(threshold: Threshold | None) -> ThresholdView | None:
    return None if threshold is None else ThresholdView.model_validate(threshold, from_attributes=True)
