"""`documents`, `collection` and `citations` of a chat request: what its answer is to rest on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Literal

from pydantic import Field

from diptych.api.errors import shown
from diptych.api.native.schema import Body
from diptych.api.openai.checked import checked, list_at, object_at, text_at
from diptych.api.openai.schema import ChatRequest
from diptych.api.services import Services
from diptych.api.tasks.collections_search import MAX_FOUND, Mode, searched
from diptych.core.errors import InvalidRequest, NotFound
from diptych.core.events import Event, Finished
from diptych.core.specs import ChatSpec
from diptych.text.grounding.fitting import Attempt, Grounding
from diptych.text.grounding.reading import CitingReader
from diptych.text.grounding.sources import Passage

MODES = ("auto", "quote", "off")
TOO_LONG = "context_length_exceeded"
MAX_DOCUMENTS = 1000
MAX_TITLE = 500
MAX_QUESTION = 20_000
"""Characters that are looked up."""
DEFAULT_CONTEXT = 8192
"""Tokens; what a model has that has more, unless the operator gives it more."""
_TEXTS = ("text", "content", "snippet", "body")
_TITLES = ("title", "name")


class CollectionAsked(Body):
    name: str = Field(min_length=1, max_length=100)
    top_k: int = Field(5, ge=1, le=MAX_FOUND)
    mode: Literal["hybrid", "keyword", "vector"] | None = None


async def grounding_of(
    services: Services, body: ChatRequest, spec: ChatSpec, caller: str,
) -> Grounding | None:
    """None where the request names no documents. Raises InvalidRequest; NotFound for a model or a collection."""
    mode = mode_of(body)
    documents = documents_of(body.documents)
    if not documents and body.collection is None:
        if mode == "quote":
            raise InvalidRequest("citations is 'quote', but there are no documents to quote: give documents or "
                                 "collection", param="citations")
        return None
    _check(spec, mode)
    question = next((message.text for message in reversed(spec.messages) if message.role == "user"), "")
    room = await asyncio.to_thread(_room, services, spec.model)
    found = () if body.collection is None else await _found(services, body.collection, question, caller)
    return Grounding(spec, mode, documents, found, question, room)


async def _found(services: Services, given: Any, question: str, caller: str) -> tuple[Passage, ...]:
    """What a collection has about the question. Raises InvalidRequest, NotFound."""
    asked = {"name": given} if isinstance(given, str) else object_at(given, "collection", "a name or an object")
    wanted = checked(CollectionAsked, "collection", **{str(name): value for name, value in asked.items()})
    if not question.strip():
        raise InvalidRequest("collection: there is no message of the user whose text could be looked up",
                             param="collection")
    mode = Mode(wanted.mode, wanted.top_k)
    return (await searched(services, caller, wanted.name, question[:MAX_QUESTION], mode)).passages


def mode_of(body: ChatRequest) -> str:
    """Raises InvalidRequest."""
    if body.citations is not None and body.citations not in MODES:
        raise InvalidRequest(f"citations is {shown(body.citations)}, not one of {', '.join(MODES)}", param="citations")
    if body.citation_options is None:
        return body.citations or "auto"
    given = object_at(body.citation_options, "citation_options").get("mode")
    if given is not None and (not isinstance(given, str) or given.lower() not in ("fast", "accurate", "enabled", "off",
                                                                                  "disabled")):
        raise InvalidRequest(f"citation_options.mode is {shown(given)}, not fast, accurate, enabled, off or disabled",
                             param="citation_options.mode")
    off = given is not None and given.lower() in ("off", "disabled")
    if body.citations not in (None, "off" if off else "auto"):
        raise InvalidRequest(f"citations is {body.citations!r}, and citation_options.mode is {given!r}; give one of "
                             "them", param="citation_options.mode")
    return "off" if off else "auto"


def documents_of(given: Any) -> tuple[Passage, ...]:
    """Texts, or objects with a text. Raises InvalidRequest."""
    if given is None:
        return ()
    made: dict[str, Passage] = {}
    for index, item in enumerate(list_at(given, "documents", "a list of texts or objects", MAX_DOCUMENTS)):
        where = f"documents[{index}]"
        one = _document(item, where, f"doc_{index}")
        if one.source in made:
            raise InvalidRequest(f"{where}.id is {shown(one.source)}, which another document has", param=f"{where}.id")
        made[one.source] = one
    return tuple(made.values())


def _document(item: Any, where: str, id: str) -> Passage:
    if isinstance(item, str):
        return Passage(id, "", _filled(item, where), 0)
    values = dict(object_at(item, where, "text or an object"))
    if "id" in values:
        id = text_at(values.pop("id"), f"{where}.id", empty=False)
        if len(id) > MAX_TITLE:
            raise InvalidRequest(f"{where}.id has {len(id)} characters, at most {MAX_TITLE} are taken",
                                 param=f"{where}.id")
    data = values.pop("data", None)
    if data is not None:
        if isinstance(data, str):
            values["text"] = data
        else:
            values |= object_at(data, f"{where}.data", "text or an object")
    title = next((text_at(values.pop(name), f"{where}.{name}") for name in _TITLES if values.get(name) is not None), "")
    text = next((text_at(values[name], f"{where}.{name}") for name in _TEXTS if values.get(name) is not None), None)
    if text is None:  # Cohere's: any fields
        text = "\n".join(f"{name}: {value}" for name, value in values.items() if isinstance(value, str))
    return Passage(id, title[:MAX_TITLE], _filled(text, f"{where}.text"), 0)


def _filled(text: str, where: str) -> str:
    if not text.strip():
        raise InvalidRequest(f"{where} has no text: give {{id, title, text}} or a text that is not empty", param=where)
    return text


def _check(spec: ChatSpec, mode: str) -> None:
    if mode != "quote":
        return
    if spec.format is not None:
        raise InvalidRequest(f"citations: 'quote' is a form of the answer and cannot be used together with "
                             f"{spec.format.field}; citations: 'auto' can", param="citations")
    if spec.tools and spec.tool_choice != "none":
        raise InvalidRequest("citations: 'quote' cannot be used together with tools; citations: 'auto' can",
                             param="citations")


def _room(services: Services, model: str) -> int:
    """Tokens of prompt and answer together. What answers in the place of a route is not known yet: the engine's own
    count decides in the end."""
    with contextlib.suppress(NotFound):
        context = services.library.get(model).context
        return services.settings.text_context or min(context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return services.settings.text_context or DEFAULT_CONTEXT


async def cited(
    events: AsyncGenerator[tuple[int, Event], None], attempt: Attempt,
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all answers, each with its citations before its end."""
    readers: dict[int, CitingReader] = {}
    async with contextlib.aclosing(events):
        async for index, event in events:
            reader = readers.setdefault(index, CitingReader(attempt))
            told = await asyncio.to_thread(reader.end, event) if isinstance(event, Finished) else reader.read(event)
            for one in told:
                yield index, one
