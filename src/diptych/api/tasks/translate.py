"""`POST /api/translate`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.live import Ready, Told, ended_early, first_of, ready, runs
from diptych.api.native.schema import Body
from diptych.api.openai.answers import Said, usage
from diptych.api.services import Caller, Having
from diptych.api.streams import EventStream, attended, sse
from diptych.api.tasks.classify import texts_in
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.events import Finished, TokenDelta
from diptych.text.translate import translation

router = APIRouter(prefix="/api", tags=["tasks"])
MOST = 64
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Language = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\n\r]*\S[^\n\r]*$")]


class TranslateRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "text": "Good morning!", "target": "French", "glossary": {"morning": "matin"}}]})

    model: str = Field("starter-text", min_length=1, max_length=300)
    text: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(description=f"a text, or up to {MOST}")
    source: Language = Field("auto", description="name of a language; auto: the model finds out")
    target: Language
    glossary: dict[str, str] = Field({}, max_length=1000, description="words, and how each is to be translated")
    keep_formatting: bool = Field(True, description="keep line breaks, Markdown, HTML and placeholders")
    stream: bool = Field(False, description="server-sent events: delta with index and text, then finished")


@router.post("/translate", openapi_extra=body_of(TranslateRequest))
async def translate(
    request: Request, services: Having, caller: Caller, body: Annotated[TranslateRequest, json_body(TranslateRequest)],
) -> Response:
    """Each text in another language. `finish_reason` says whether a translation is whole (`stop`)."""
    texts = texts_in(body.text, "text", MOST)
    if "" in body.glossary:
        raise InvalidRequest("glossary has an empty word", param="glossary")
    source = None if body.source == "auto" else body.source
    works = [await ready(services, translation(body.model, text, source, body.target, body.glossary,
                                               body.keep_formatting), field="text",
                         whole=not body.stream) for text in texts]
    events = runs(services, works, 1, caller)
    if not body.stream:
        return JSONResponse(await attended(request, _whole(works, events)))
    first = await attended(request, first_of(events))
    return EventStream(_pieces(works, events, first))


async def _whole(works: list[Ready], events: AsyncGenerator[Told, None]) -> dict[str, Any]:
    said = [Said() for _ in works]
    async with contextlib.aclosing(events):
        async for index, event in events:
            said[index].take(event)
    return _answer(works, said)


async def _pieces(
    works: list[Ready], events: AsyncGenerator[Told, None], first: Told,
) -> AsyncGenerator[str, None]:
    said = [Said() for _ in works]
    try:
        async with contextlib.aclosing(events):
            async for index, event in events:
                said[index].take(event)
                if isinstance(event, TokenDelta):
                    yield sse({"type": "delta", "index": index, "text": event.text}, event="delta")
                elif isinstance(event, Finished):
                    yield sse({"type": "done", "index": index, "finish_reason": event.reason}, event="done")
            yield sse({"type": "finished", **_answer(works, said)}, event="finished")
    except DiptychError as error:
        yield sse({"type": "error", **error.body()}, event="error")


def _answer(works: list[Ready], said: list[Said]) -> dict[str, Any]:
    translations = []
    for index, one in enumerate(said):
        if one.finished is None:
            raise ended_early()
        translations.append({"index": index, "text": "".join(one.text).strip("\n"),
                             "finish_reason": one.finished.reason})
    metrics = [one.metrics for one in said]
    return {"model": works[0].model, "translations": translations, "usage": usage(metrics, metrics)}
