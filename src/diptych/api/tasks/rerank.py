"""`POST /v1/rerank` and `/v2/rerank`, as Cohere's and Jina's clients know them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import not_supported, shown
from diptych.api.openai.checked import checked, list_at, text_at
from diptych.api.openai.schema import Compatible, Flag, ModelId
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.data import all_measured, by_target, measured, text_card
from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.specs import EmbedSpec, RerankSpec
from diptych.text.relevance import cosine, gain, query_given, sigmoid

router = APIRouter(tags=["Cohere"])
MAX_DOCUMENTS = 2048
METHODS = ("auto", "reranker", "embeddings", "likelihood")
_DOCUMENTS = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}


class RerankRequest(Compatible):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "query": "What is the capital of France?",
        "documents": ["Cats sleep a lot.", "Paris is the capital of France."], "top_n": 1}]})

    model: ModelId
    query: str = Field(min_length=1)
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS)] = Field(
        description=f"up to {MAX_DOCUMENTS} texts, or objects whose text is in `text` or in `rank_fields`")
    top_n: int | None = Field(None, ge=1, le=1_000_000, description="tell only the best; all when left out")
    return_documents: Flag = Field(None, description="tell the documents too")
    rank_fields: list[str] | None = Field(None, min_length=1, max_length=100, description="fields of the objects")
    method: str | None = Field(
        None, max_length=100, description="reranker, embeddings or likelihood; auto: what the model is made for")
    normalize: Flag = Field(None, description="a reranker's scores from 0 to 1, by the logistic function")


@router.post("/v1/rerank", openapi_extra=body_of(RerankRequest))
async def rerank(
    request: Request, services: Having, caller: Caller, body: Annotated[RerankRequest, json_body(RerankRequest)],
) -> Response:
    """The documents by how well they answer the query, best first. `method` of the answer says how that was found:
    by a reranker, by the angle between vectors, or by how likely the query is as a question about the document."""
    return JSONResponse(await attended(request, _answer(services, body, caller)))


@router.post("/v2/rerank", openapi_extra=body_of(RerankRequest))
async def rerank_v2(
    request: Request, services: Having, caller: Caller, body: Annotated[RerankRequest, json_body(RerankRequest)],
) -> Response:
    """As `/v1/rerank`."""
    return await rerank(request, services, caller, body)


async def _answer(services: Services, body: RerankRequest, caller: str) -> dict[str, Any]:
    for name in ("max_tokens_per_doc", "max_chunks_per_doc"):
        if body.more.get(name) is not None:
            raise not_supported(name, shown(body.more[name]))
    documents = texts_of(body.documents, body.rank_fields)

    async def work(model: str) -> tuple[Card, str, list[float], int]:
        card = await text_card(services, model)
        method = _method(card, body.method or "auto")
        if body.normalize and method != "reranker":
            raise InvalidRequest(f"normalize is for scores of a reranker; those by {method} are bounded",
                                 param="normalize", code="unsupported_value")
        return card, method, *await relevance(services, card, method, body.query, documents, caller)

    card, method, scores, used = await by_target(services, body.model, work)
    if body.normalize:
        scores = [sigmoid(score) for score in scores]
    results: list[dict[str, Any]] = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index])[:body.top_n]:
        one: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if body.return_documents:
            given = body.documents[index]
            one["document"] = {"text": given} if isinstance(given, str) else given
        results.append(one)
    return {"id": f"rerank-{secrets.token_hex(12)}", "object": "list", "model": card.id, "method": method,
            "results": results, "usage": {"prompt_tokens": used, "total_tokens": used},
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1},
                     "tokens": {"input_tokens": used}}}


async def relevance(
    services: Services, card: Card, method: str, query: str, documents: list[str], caller: str,
) -> tuple[list[float], int]:
    """A score for each document, higher for better ones, and the tokens that were read. Raises DiptychError."""
    if method == "reranker":
        spec = checked(RerankSpec, model=card.id, query=query, documents=documents)
        found = await measured(services, spec, caller)
        return [float(score) for score in found["scores"]], int(found["tokens"])
    if method == "embeddings":
        vectors, used = [], 0
        for start in range(0, len(documents) + 1, MAX_DOCUMENTS):
            inputs = tuple([query, *documents][start:start + MAX_DOCUMENTS])
            found = await measured(services, EmbedSpec(model=card.id, inputs=inputs), caller,
                                   {"inputs": "documents", "input": "documents"})
            vectors += found["vectors"]
            used += int(found["tokens"])
        return [cosine(vectors[0], vector) for vector in vectors[1:]], used
    # Without a document first: a query that is too long by itself is the query's fault.
    alone = await measured(services, query_given(card.id, query, None), caller,
                           {"messages": "query", "options": "query"})
    values = await all_measured(
        services, [query_given(card.id, query, document) for document in documents], caller,
        lambda index: dict.fromkeys(("messages", "options"), f"documents[{index}]"))
    least = float(alone["logprobs"][0])
    return ([gain(float(value["logprobs"][0]), least, query) for value in values],
            sum(int(value["tokens"]) for value in (alone, *values)))


def texts_of(value: Any, fields: list[str] | None) -> list[str]:
    """The text of each document. Raises InvalidRequest."""
    documents = list_at(value, "documents", "a list of texts or objects", MAX_DOCUMENTS)
    if not documents:
        raise InvalidRequest("documents is empty: there is nothing to rank", param="documents")
    return [_text(document, fields, f"documents[{index}]") for index, document in enumerate(documents)]


def _text(document: Any, fields: list[str] | None, where: str) -> str:
    if isinstance(document, str):
        return text_at(document, where, empty=False)
    if not isinstance(document, dict):
        raise InvalidRequest(f"{where} must be text or an object, not {shown(document)}", param=where)
    if fields is None:
        return text_at(document.get("text"), f"{where}.text", empty=False)
    there = [f"{name}: {document[name]}" for name in fields if document.get(name) is not None]
    if not there:
        raise InvalidRequest(f"{where} has none of the fields {', '.join(map(shown, fields))}", param=where)
    return "\n".join(there)


def _method(card: Card, asked: str) -> str:
    """Raises InvalidRequest for a method that the model cannot be used with."""
    if asked not in METHODS:
        raise InvalidRequest(f"method is {shown(asked)}, not one of {', '.join(METHODS)}", param="method")
    if asked == "auto":
        return "reranker" if "rerank" in card.tasks else "likelihood" if "chat" in card.tasks else "embeddings"
    if asked == "reranker" and "rerank" not in card.tasks:
        raise InvalidRequest(f"method is reranker, but model {card.id!r} is none", param="method",
                             code="unsupported_value")
    if asked == "likelihood" and "chat" not in card.tasks:
        raise InvalidRequest(f"method is likelihood, but model {card.id!r} makes no text", param="method",
                             code="unsupported_value")
    return asked
