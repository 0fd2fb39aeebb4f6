"""`POST /v1/moderations`, and of conversations `/v1/chat/moderations`."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import shown
from diptych.api.openai.checked import list_at, object_at, same, text_at
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.schema import Compatible, Number
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.data import by_target, text_card
from diptych.api.tasks.moderate import image_scores, text_scores
from diptych.core.cards import Card
from diptych.core.chat import ImagePart
from diptych.core.errors import InvalidRequest
from diptych.text.moderate import CATEGORIES

router = APIRouter(prefix="/v1", tags=["OpenAI"])
MODEL = "starter-text"
THRESHOLD = 0.5
MOST = 256
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [
    {"type": "string"}, {"type": "object", "properties": {"type": {"enum": ["text", "image_url"]}}}]}}]}


class ModerationsRequest(Compatible):
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "I will kill you."}]})

    model: Annotated[str | None, Field(min_length=1, max_length=300)] = Field(
        None, description=f"id of a text model; {MODEL} when left out")
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        None, description="a text, texts, or parts of type text and image_url, which are judged together")
    inputs: Annotated[Any, WithJsonSchema(_INPUT)] = Field(None, description="another name of input")
    threshold: Number = Field(None, ge=0.0, le=1.0, description="scores from here on are flagged; 0.5 when left out")


class ChatModerationsRequest(Compatible):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"input": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I will kill you."}]}]})

    model: Annotated[str | None, Field(min_length=1, max_length=300)] = None
    input: Annotated[Any, WithJsonSchema({"type": "array"})] = Field(
        None, description="a conversation, or a list of them; the last message of each is judged")
    inputs: Annotated[Any, WithJsonSchema({"type": "array"})] = Field(None, description="another name of input")
    threshold: Number = Field(None, ge=0.0, le=1.0)


@router.post("/moderations", openapi_extra=body_of(ModerationsRequest))
async def moderations(
    request: Request, services: Having, caller: Caller,
    body: Annotated[ModerationsRequest, json_body(ModerationsRequest)],
) -> Response:
    """How much texts and pictures belong to OpenAI's categories of what should not be said or shown."""
    name = "input" if body.inputs is None else "inputs"
    items = await asyncio.to_thread(_items, same(body, "input", "inputs"), name, Pictures(services.settings))
    return JSONResponse(await attended(request, _answer(services, body.model, body.threshold, items, caller)))


@router.post("/chat/moderations", openapi_extra=body_of(ChatModerationsRequest))
async def chat_moderations(
    request: Request, services: Having, caller: Caller,
    body: Annotated[ChatModerationsRequest, json_body(ChatModerationsRequest)],
) -> Response:
    """The same for the last message of each conversation."""
    name = "input" if body.inputs is None else "inputs"
    given = list_at(same(body, "input", "inputs"), name, "a list of messages, or of such lists", MOST)
    talks = given if given and all(isinstance(one, list) for one in given) else [given]
    items = [Item(f"{name}[{index}]", _last(talk, f"{name}[{index}]" if talks is given else name))
             for index, talk in enumerate(talks)]
    return JSONResponse(await attended(request, _answer(services, body.model, body.threshold, items, caller)))


class Item:
    """What is judged as one: a text, pictures, or both."""

    def __init__(self, where: str, text: str, pictures: list[ImagePart] | None = None) -> None:
        self.where, self.text, self.pictures = where, text, pictures or []


async def _answer(
    services: Services, model: str | None, threshold: float | None, items: list[Item], caller: str,
) -> dict[str, Any]:
    pictured = [item for item in items if item.pictures]
    seen = {id(item): await image_scores(services, item.pictures, item.where) for item in pictured}
    worded = [item for item in items if item.text]

    async def work(target: str) -> tuple[Card, list[dict[str, float]], int]:
        card = await text_card(services, target)
        return card, *await text_scores(
            services, card, [item.text for item in worded], caller, lambda index: worded[index].where)

    card, scores, tokens = await by_target(services, model or MODEL, work)
    said = dict(zip(map(id, worded), scores, strict=True))
    results = [_result(said.get(id(item)), seen.get(id(item), []), THRESHOLD if threshold is None else threshold)
               for item in items]
    return {"id": f"modr-{secrets.token_hex(12)}", "model": card.id, "results": results,
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}}


def _result(said: dict[str, float] | None, seen: list[dict[str, float]], threshold: float) -> dict[str, Any]:
    both = [*([] if said is None else [said]), *seen]
    scores = {name: max(one[name] for one in both) for name in CATEGORIES}
    kinds = {name: [*(["text"] if said else []), *(["image"] if seen and name == "sexual" else [])]
             for name in CATEGORIES}
    flags = {name: score >= threshold for name, score in scores.items()}
    return {"flagged": any(flags.values()), "categories": flags, "category_scores": scores,
            "category_applied_input_types": kinds}


def _items(value: Any, name: str, pictures: Pictures) -> list[Item]:
    """Blocks where there are pictures. Raises InvalidRequest, and what `Pictures` does."""
    if isinstance(value, str):
        return [Item(name, text_at(value, name, empty=False))]
    given = list_at(value, name, "text, a list of texts, or a list of parts", MOST)
    if not given:
        raise InvalidRequest(f"{name} is empty", param=name)
    if not isinstance(given[0], dict):
        return [Item(f"{name}[{index}]", text_at(text, f"{name}[{index}]", empty=False))
                for index, text in enumerate(given)]
    texts: list[str] = []
    images: list[ImagePart] = []
    for index, part in enumerate(given):
        where = f"{name}[{index}]"
        kind = object_at(part, where, "a part with a type").get("type")
        if kind == "text":
            texts.append(text_at(part.get("text"), f"{where}.text", empty=False))
        elif kind == "image_url":
            url = part.get("image_url")
            images.append(pictures.from_url(url.get("url") if isinstance(url, dict) else url, f"{where}.image_url.url"))
        else:
            raise InvalidRequest(f"{where}.type is {shown(kind)}, not text or image_url", param=f"{where}.type")
    return [Item(name, "\n".join(texts), images)]


def _last(talk: Any, where: str) -> str:
    """The text of the last message. Raises InvalidRequest."""
    messages = list_at(talk, where, "a list of messages")
    if not messages:
        raise InvalidRequest(f"{where} has no message", param=where)
    place = f"{where}[{len(messages) - 1}]"
    content = object_at(messages[-1], place, "a message").get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return text_at(content, f"{place}.content", empty=False)
