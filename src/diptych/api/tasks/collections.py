"""`/api/collections`: documents that are kept, and searched by words and by meaning."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import REF, body_of
from diptych.api.native.schema import Body
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.collections_ingest import ingested, sent
from diptych.api.tasks.collections_search import MAX_FOUND, Mode, searched
from diptych.api.tasks.data import text_card
from diptych.core.errors import InvalidRequest
from diptych.text.grounding.collection_file import Collection, Document
from diptych.text.grounding.collections import CollectionStore

router = APIRouter(prefix="/api/collections", tags=["collections"])
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_FILES = {"multipart/form-data": {"schema": {"type": "object", "properties": {
    "file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}}}


class CollectionRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"name": "handbook", "model": "starter-text", "description": "how we work", "characters": 1000,
         "overlap": 100}]})

    name: str = Field(pattern=NAME, description="lower-case letters, digits, - and _; yours alone")
    model: str | None = Field(None, min_length=1, max_length=300, description=(
        "makes the vectors of the passages; left out: it is searched by words only"))
    description: str = Field("", max_length=1000)
    characters: int = Field(1000, ge=200, le=8000, description="most characters of a passage")
    overlap: int = Field(100, ge=0, le=2000, description="most characters that neighbouring passages share")


class SearchRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"query": "how many days of leave are there?", "mode": "keyword", "top_k": 5}]})

    query: str = Field(min_length=1, max_length=20_000)
    mode: Literal["hybrid", "keyword", "vector"] | None = Field(None, description=(
        "hybrid joins the ranks of the other two; left out: hybrid where the collection has a model, else keyword"))
    top_k: int = Field(8, ge=1, le=MAX_FOUND, description="passages")


@router.post("", openapi_extra=body_of(CollectionRequest))
async def create(
    services: Having, caller: Caller, body: Annotated[CollectionRequest, json_body(CollectionRequest)],
) -> Response:
    """Make an empty collection."""
    if body.overlap >= body.characters:
        raise InvalidRequest(f"overlap is {body.overlap}, it must be less than characters, which is {body.characters}",
                             param="overlap")
    model = None if body.model is None else (await text_card(services, body.model)).id
    made = Collection(body.name, caller, model, body.description, body.characters, body.overlap,
                      datetime.now(timezone.utc))
    return JSONResponse(view(await asyncio.to_thread(store(services).create, caller, made)), status_code=201)


@router.get("")
async def list_collections(services: Having, caller: Caller) -> dict[str, Any]:
    """One's own, by name."""
    return {"collections": [view(one) for one in await asyncio.to_thread(store(services).all, caller)]}


@router.get("/{name}")
async def read(services: Having, caller: Caller, name: str) -> dict[str, Any]:
    """What is known about a collection."""
    return view(await asyncio.to_thread(store(services).get, caller, name))


@router.delete("/{name}")
async def delete(services: Having, caller: Caller, name: str) -> dict[str, Any]:
    """Delete a collection with all its documents. Nothing of them is left on the disk."""
    await asyncio.to_thread(store(services).delete, caller, name)
    return {"name": name, "deleted": True}


@router.post("/{name}/documents", openapi_extra={"requestBody": {"required": True, "content": {
    "application/json": {"schema": {"$ref": REF.format(model="DocumentsRequest")}}, **_FILES}}})
async def add(request: Request, services: Having, caller: Caller, name: str) -> Response:
    """Add documents: JSON with texts, or files as multipart/form-data (text, Markdown, HTML, PDF). All of them are
    added, or none."""
    collection = await asyncio.to_thread(store(services).get, caller, name)
    documents = await sent(request, services.settings)
    made = await attended(request, ingested(services, collection, documents, caller))
    kept = await asyncio.to_thread(store(services).add, caller, name, made)
    return JSONResponse({"documents": [document_view(one) for one in kept]}, status_code=201)


@router.get("/{name}/documents")
async def documents(
    services: Having, caller: Caller, name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(min_length=1, max_length=500)] = None,
) -> dict[str, Any]:
    """Oldest first; `next` is the `after` of the next page, null on the last."""
    found = await asyncio.to_thread(store(services).documents, caller, name, limit + 1, after)
    return {"documents": [document_view(one) for one in found[:limit]],
            "next": found[limit - 1].id if len(found) > limit else None}


@router.get("/{name}/documents/{id}")
async def document(services: Having, caller: Caller, name: str, id: str) -> dict[str, Any]:
    """A document with its text, which is what the offsets of citations count in."""
    found, text = await asyncio.to_thread(store(services).document, caller, name, id)
    return {**document_view(found), "text": text}


@router.delete("/{name}/documents/{id}")
async def remove(services: Having, caller: Caller, name: str, id: str) -> dict[str, Any]:
    """Delete one document: its text, its words and its vectors are overwritten."""
    await asyncio.to_thread(store(services).remove, caller, name, id)
    return {"id": id, "deleted": True}


@router.post("/{name}/search", openapi_extra=body_of(SearchRequest))
async def search(
    request: Request, services: Having, caller: Caller, name: str,
    body: Annotated[SearchRequest, json_body(SearchRequest)],
) -> dict[str, Any]:
    """The passages that fit a question best. Ranks count from 1; those of hybrid are joined by reciprocal rank
    fusion."""
    found = await attended(request, searched(services, caller, name, body.query, Mode(body.mode, body.top_k)))
    return {"mode": found.mode, "results": [
        {**passage.told(), "text": passage.text, "ranks": found.ranks[index]}
        for index, passage in enumerate(found.passages)]}


def store(services: Services) -> CollectionStore:
    return CollectionStore(services.settings.data_dir)


def view(collection: Collection) -> dict[str, Any]:
    return {**asdict(collection), "created_at": collection.created_at.isoformat()}


def document_view(document: Document) -> dict[str, Any]:
    return {**asdict(document), "created_at": document.created_at.isoformat()}
