"""Documents on their way into a collection: sent, read, cut, and given vectors."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from diptych.api.body import read_bytes, reader
from diptych.api.errors import path_of, shown
from diptych.api.native.schema import Body
from diptych.api.openai.checked import checked, list_at
from diptych.api.services import Services
from diptych.api.tasks.data import measured
from diptych.core.errors import InvalidRequest
from diptych.core.specs import EmbedSpec
from diptych.settings import Settings
from diptych.text.grounding.chunks import split
from diptych.text.grounding.collection_file import Collection
from diptych.text.grounding.collections import NewDocument
from diptych.text.grounding.files import Extracted, extracted, from_html, media_type_of
from diptych.text.grounding.files import checked as checked_text

MAX_FILES = 100
MAX_PASSAGES = 50_000
"""Of one document."""
EMBEDDED = 32
"""Passages whose vectors are asked for at once."""
ID = r"^[^\x00-\x1f\x7f/]{1,200}$"
_TEXTS = ("text/plain", "text/markdown", "text/html")


class SentDocument(Body):
    text: str = Field(min_length=1)
    id: str | None = Field(None, pattern=ID, description="takes the place of the one with this id; left out: a new one")
    title: str = Field("", max_length=500)
    media_type: str = Field("text/plain", max_length=100, description=", ".join(_TEXTS))


class DocumentsRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [
        {"id": "leave", "title": "Leave", "text": "Everybody has thirty days of leave a year."}]}]})

    documents: list[Any] = Field(min_length=1, description="objects {id, title, text, media_type}")


@dataclass(frozen=True)
class Sent:
    """A document as it came; `data` are the bytes of a file. `where` is its place, for errors."""

    where: str
    media_type: str
    title: str
    id: str | None = None
    text: str = ""
    data: bytes | None = None


async def sent(request: Request, settings: Settings) -> list[Sent]:
    """The documents of a request. Raises InvalidRequest, TooLarge, UnsupportedMedia."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        return await _files(request, settings.max_document_bytes)
    body = await reader(DocumentsRequest)(request)
    return [_text(item, f"documents[{index}]")
            for index, item in enumerate(list_at(body.documents, "documents", most=MAX_FILES))]


async def ingested(
    services: Services, collection: Collection, documents: list[Sent], caller: str,
) -> list[NewDocument]:
    """With their text, passages and vectors; nothing is written yet. Raises DiptychError."""
    made: dict[str, NewDocument] = {}
    for one in documents:
        new = await asyncio.to_thread(_cut, one, collection)
        if new.id in made:
            raise InvalidRequest(f"{one.where}.id is {shown(new.id)}, which another document has",
                                 param=f"{one.where}.id")
        made[new.id] = new
    if collection.model is None:
        return list(made.values())
    return [NewDocument(new.id, new.title, new.media_type, new.text, new.chunks, tuple(
        await vectors(services, collection.model, [chunk.text for chunk in new.chunks], caller)))
        for new in made.values()]


async def vectors(services: Services, model: str, texts: list[str], caller: str) -> list[list[float]]:
    """Of length 1. Raises DiptychError."""
    found: list[list[float]] = []
    for start in range(0, len(texts), EMBEDDED):
        spec = checked(EmbedSpec, model=model, inputs=tuple(texts[start:start + EMBEDDED]))
        told = await measured(services, spec, caller, {"inputs": "passages", "model": "collection"})
        found += told["vectors"]
    return found


def _text(item: Any, where: str) -> Sent:
    one = checked(SentDocument, where, **item) if isinstance(item, dict) and all(
        isinstance(name, str) for name in item) else None
    if one is None:
        raise InvalidRequest(f"{where} must be an object with a text, not {shown(item)}", param=where)
    if one.media_type not in _TEXTS:
        raise InvalidRequest(f"{where}.media_type is {shown(one.media_type)}, not one of {', '.join(_TEXTS)}; files of "
                             "other types are sent as multipart/form-data", param=f"{where}.media_type")
    return Sent(where, one.media_type, one.title, one.id, one.text)


async def _files(request: Request, limit: int) -> list[Sent]:
    raw = await read_bytes(request, limit)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield raw

    headers = Headers({"content-type": request.headers["content-type"]})
    try:
        form = await MultiPartParser(
            headers, stream(), max_files=MAX_FILES, max_fields=1, max_part_size=1024).parse()
    except (MultiPartException, LookupError, ValueError) as error:
        reason = getattr(error, "message", "") or "its boundary or character set is missing or not known"
        raise InvalidRequest(f"the body is no valid multipart/form-data: {reason}", param="body",
                             code="invalid_multipart") from None
    try:
        found = [await _file(field, value, f"file[{index}]") for index, (field, value) in enumerate(form.multi_items())]
    finally:
        await form.close()
    if not found:
        raise InvalidRequest("there is no file in the body", param="file", code="missing_required_parameter")
    return found


async def _file(field: str, value: UploadFile | str, where: str) -> Sent:
    if not isinstance(value, UploadFile):
        raise InvalidRequest(f"{shown(field)} is no file; only files are taken here", param=path_of([field]))
    name = _base(value.filename or "")
    kind = media_type_of(value.content_type or "", name, where)
    return Sent(where, kind, name, data=await value.read())


def _base(name: str) -> str:
    """The last part of a file's name, for people to see: nothing is ever opened by it."""
    last = re.split(r"[\\/]", name)[-1]
    return "".join(char if char.isprintable() else "\ufffd" for char in last)[:200]


def _cut(one: Sent, collection: Collection) -> NewDocument:
    if one.data is not None:
        found = extracted(one.data, one.media_type, one.where)
    else:
        found = from_html(one.text) if one.media_type == "text/html" else Extracted(one.text)
        found = checked_text(found, f"{one.where}.text")
    chunks = split(found.text, collection.characters, collection.overlap, markdown=one.media_type == "text/markdown")
    if len(chunks) > MAX_PASSAGES:
        raise InvalidRequest(f"{one.where} has {len(chunks)} passages, at most {MAX_PASSAGES} are taken: make them "
                             "larger or the document smaller", param=one.where)
    title = (one.title if one.data is None else found.title or one.title) or found.title
    return NewDocument(one.id or f"doc-{secrets.token_hex(8)}", title[:500], one.media_type, found.text, tuple(chunks))
