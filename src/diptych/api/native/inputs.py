"""`/api/inputs`: pictures to work on. And what the picture fields of all requests may hold."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from diptych.api.auth import Principal
from diptych.api.body import check_type, read_bytes
from diptych.api.errors import shown
from diptych.api.native.artifact_files import ARTIFACT_ID, artifact_path
from diptych.api.openai.pictures import MAX_PICTURES
from diptych.api.services import Having, Services
from diptych.core.errors import NotFound, TooLarge
from diptych.core.picture_refs import with_ids
from diptych.core.pictures import ImageLimits, Picture, decode_picture, picture_from_text
from diptych.library.fetch import fetch_allowed
from diptych.settings import Settings
from diptych.store.inputs import InputPicture

router = APIRouter(prefix="/api/inputs", tags=["jobs"])
_BINARY = {"type": "string", "format": "binary"}
_BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": _BINARY}}}}
ARTIFACT, INPUT = "artifact:", "sha256:"


class InputView(BaseModel):
    """A stored picture: `id` is what requests name it by. Always PNG, upright, without metadata."""

    id: str = Field(description="sha256: and the hash of the stored file; the same picture has the same id")
    url: str = Field(description="relative to the server's address")
    width: int
    height: int
    mode: str = Field(description="RGB, or RGBA where the picture has transparency")


@router.post("", status_code=201, openapi_extra=_BODY)
async def upload(request: Request, services: Having, response: Response) -> InputView:
    """Store a picture (PNG, JPEG, WebP, GIF or BMP; of an animation the first one) that requests can then name, as
    often as they like. The body is the file itself."""
    # No type that a web page may send elsewhere without asking (CORS).
    check_type(request, lambda kind: kind.startswith("image/"), "that of the picture, e.g. image/png")
    raw = await read_bytes(request, services.settings.max_image_bytes)
    stored = await asyncio.to_thread(
        lambda: services.inputs.put(decode_picture(raw, limits_of(services.settings), param="body").image))
    view = _view(stored)
    response.headers["location"] = view.url
    return view


@router.get("/{id}", response_class=FileResponse)
async def input_file(services: Having, id: str) -> Response:
    """The stored picture. Whoever knows its id may see it: nobody can guess the id of a picture that he has not."""
    path = await asyncio.to_thread(services.inputs.path, id)
    headers = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return FileResponse(path, media_type="image/png", filename=path.name, headers=headers,
                        content_disposition_type="inline")


class InputPictures:
    """Puts the pictures of one request into the store. Blocks: use it in a worker thread.

    Args:
        who: whose request it is: only artifacts that it may see can be named.
    """

    def __init__(self, services: Services, who: Principal) -> None:
        self._services, self._who = services, who
        self._limits = limits_of(services.settings)
        self._known: dict[str, str] = {}

    def place(self, text: str, param: str) -> str:
        """The id of the picture that a field holds: base64, a `data:` URL, `artifact:ID`, the id of an uploaded
        picture, or an http(s) URL of a host that the operator allows.

        Raises:
            InvalidRequest: no picture that can be read here. TooLarge: over a limit.
            NotFound: no such artifact or uploaded picture, or one of another caller.
            Forbidden: a URL of a host that is not allowed. Unavailable: it cannot be stored.
        """
        if text not in self._known:
            if len(self._known) >= MAX_PICTURES:
                raise TooLarge(f"{param}: a request may have {MAX_PICTURES} pictures at most", param=param,
                               code="too_many_images")
            self._known[text] = self._placed(text, param)
        return self._known[text]

    def _placed(self, text: str, param: str) -> str:
        if text.startswith(INPUT):
            self._services.inputs.path(text, param=param)
            return text
        return self._services.inputs.put(self._read(text, param).image).id

    def _read(self, text: str, param: str) -> Picture:
        if text.startswith(ARTIFACT):
            return decode_picture(self._artifact(text.removeprefix(ARTIFACT), param), self._limits, param=param)
        if text.startswith(("http://", "https://")):
            fetched = fetch_allowed(text, self._services.settings, param=param)
            return decode_picture(fetched.data, self._limits, param=param)
        return picture_from_text(text, self._limits, param=param)

    def _artifact(self, id: str, param: str) -> bytes:
        told = NotFound(f"{param} is {shown(ARTIFACT + id)}, but there is no artifact of that id", param=param)
        if not ARTIFACT_ID.fullmatch(id):
            raise told
        store = self._services.store
        try:
            artifact = store.artifact(id)
            if not self._who.sees(store.get(artifact.job_id).caller):
                raise told
            return artifact_path(self._services.settings.artifacts_dir, artifact).read_bytes()
        except (NotFound, OSError):
            raise told from None


async def values_of(services: Services, who: Principal, body: BaseModel) -> dict[str, Any]:
    """The fields of a request, with the id of a stored picture in every field that holds one. Raises what
    `InputPictures.place` does."""
    return await asyncio.to_thread(with_ids, body, InputPictures(services, who).place)


def limits_of(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)


def _view(stored: InputPicture) -> InputView:
    return InputView(id=stored.id, url=f"/api/inputs/{stored.id}", width=stored.width, height=stored.height,
                     mode=stored.mode)
