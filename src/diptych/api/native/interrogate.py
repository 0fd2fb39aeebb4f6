"""`POST /api/interrogate`: what is to be seen in a picture."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import failure
from diptych.api.live import ready, run
from diptych.api.native.inputs import values_of
from diptych.api.native.schema import Body
from diptych.api.services import Caller, Having, Services, Who
from diptych.api.streams import attended
from diptych.core.cards import Card
from diptych.core.chat import ImagePart, Message, TextPart
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.events import Data, Failed, TokenDelta
from diptych.core.image_options import ModelId, PictureRef, Several
from diptych.core.specs import ChatSpec, InterrogateSpec, Sampling

router = APIRouter(prefix="/api/interrogate", tags=["jobs"])
VOCABULARY = "vocabulary.txt"
"""A file in a model's folder: captions that it knows, one a line."""
MAX_CAPTIONS, MAX_SIDE = 1000, 1024
QUESTION = "Describe this picture in one sentence, as a caption for an image generator."
Caption = Annotated[str, Field(min_length=1, max_length=500)]


class InterrogateRequest(Body):
    """A picture, and who is asked: a text model that sees pictures answers in words, an image model ranks captions."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"image": "artifact:8c0c9d1e2f3a4b5c6d7e8f90a1b2c3d4-0"},
        {"image": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "model": "starter",
         "vocabulary": ["a cat", "a dog", "a red apple"], "top": 2}]})

    image: PictureRef
    model: ModelId | None = Field(None, description=(
        "a text model that sees pictures, or an image model; when left out, the former if one is loaded, else starter"))
    prompt: str = Field(QUESTION, min_length=1, max_length=2000, description="what a text model is asked")
    vocabulary: Several[Caption] = Field((), max_length=MAX_CAPTIONS, description=(
        f"captions that an image model chooses from; those in {VOCABULARY} of its folder when left out"))
    samples: int = Field(16, ge=1, le=256, description="noises that each caption is measured with")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of these noises")
    top: int = Field(5, ge=1, le=MAX_CAPTIONS, description="captions that are told")


class RankedCaption(BaseModel):
    """`error`: how far the model was from the picture's noise with this caption; the smaller, the better it fits."""

    caption: str
    error: float


class InterrogateView(BaseModel):
    """`caption` is the answer; `captions`, of an image model, are the best ones with their errors."""

    model: str
    caption: str
    captions: list[RankedCaption]


@router.post("", openapi_extra=body_of(InterrogateRequest), response_model=InterrogateView)
async def interrogate(
    request: Request, services: Having, caller: Caller, who: Who,
    body: Annotated[InterrogateRequest, json_body(InterrogateRequest, pictures=True)],
) -> Response:
    """A caption for a picture: in the words of a text model that sees pictures, or the one of a vocabulary with which
    an image model predicts the picture's noise best."""
    values = await values_of(services, who, body)
    path = services.inputs.path(values["image"], param="image")
    card = await _card(services, body)
    work = _described(services, card, path, body, caller) if card.panel == "text" else _ranked(
        services, card, path, body, caller)
    return JSONResponse((await attended(request, work)).model_dump())


async def _card(services: Services, body: InterrogateRequest) -> Card:
    """Who is asked. Raises NotFound; InvalidRequest for a text model that sees no pictures."""
    if body.model is None:
        seeing = [card for card in await asyncio.to_thread(services.library.cards) if card.vision]
        loaded = {runner.model for runner in services.dispatcher.runners() if runner.state == "ready"}
        found = next((card for card in seeing if card.id in loaded), None)
        if found is not None and not body.vocabulary:
            return found
    card = await asyncio.to_thread(services.library.get, body.model or "starter")
    if card.panel == "text" and not card.vision:
        raise InvalidRequest(f"model {card.id!r} cannot see pictures (it has no mmproj file); name one that can, or an "
                             "image model", param="model", code="no_vision")
    return card


async def _described(
    services: Services, card: Card, path: Path, body: InterrogateRequest, caller: str,
) -> InterrogateView:
    data = base64.b64encode(await asyncio.to_thread(_small, path)).decode()
    message = Message(role="user", content=(ImagePart(data=data), TextPart(text=body.prompt)))
    spec = ChatSpec(model=card.id, messages=(message,), sampling=Sampling(temperature=0.2, max_tokens=200))
    said: list[str] = []
    work = await ready(services, spec, field="prompt")
    async with contextlib.aclosing(run(services, work, caller, body.seed)) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, TokenDelta):
                said.append(event.text)
    return InterrogateView(model=card.id, caption="".join(said).strip(), captions=[])


async def _ranked(
    services: Services, card: Card, path: Path, body: InterrogateRequest, caller: str,
) -> InterrogateView:
    captions = body.vocabulary or await asyncio.to_thread(_vocabulary, card)
    picture = base64.b64encode(await asyncio.to_thread(_small, path)).decode()
    spec = InterrogateSpec(model=card.id, picture=picture, captions=captions, samples=body.samples, seed=body.seed)
    found: list[dict[str, Any]] = []
    async with contextlib.aclosing(services.dispatcher.stream(spec, caller=caller)) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Data):
                found = event.value["captions"]
    if not found:
        raise Unavailable("the image runner ended before it answered")
    ranked = [RankedCaption.model_validate(one) for one in found[:body.top]]
    return InterrogateView(model=card.id, caption=ranked[0].caption, captions=ranked)


def _small(path: Path) -> bytes:
    """The picture as a PNG file, at most MAX_SIDE pixels a side, on white where it is transparent."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _vocabulary(card: Card) -> tuple[str, ...]:
    """The captions in the model's own folder. Raises InvalidRequest where it has none."""
    file = Path(card.path) / VOCABULARY
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    found = tuple(line[:500] for line in lines if line)[:MAX_CAPTIONS]
    if not found:
        raise InvalidRequest(
            f"vocabulary is missing: model {card.id!r} has no {VOCABULARY} in its folder, so say which captions it "
            "shall choose from", param="vocabulary")
    return found


INTERROGATE_BODIES: list[type[BaseModel]] = [InterrogateRequest]
