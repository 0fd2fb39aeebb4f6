"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
import math
import secrets
import struct
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.errors import not_supported, shown
from diptych.api.openai.checked import checked, same
from diptych.api.openai.schema import Compatible, ModelId
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import attended
from diptych.api.tasks.data import by_target, measured, text_card
from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.specs import EmbedSpec

router = APIRouter(prefix="/v1", tags=["OpenAI"])
MAX_INPUTS = 2048
MAX_DIMENSIONS = 65_536
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}},
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}]}


class EmbeddingsRequest(Compatible):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter-text", "input": ["a cat", "a dog"]}]})

    model: ModelId
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        description=f"a text, up to {MAX_INPUTS} texts, the tokens of one, or a list of these")
    encoding_format: str | None = Field(None, max_length=100, description="float (the default) or base64 of float32")
    dimensions: int | None = Field(
        None, ge=1, le=MAX_DIMENSIONS, description="keep so many numbers of each vector, and make its length 1 again")
    output_dimension: int | None = Field(None, ge=1, le=MAX_DIMENSIONS, description="Mistral's name for dimensions")
    output_dtype: str | None = Field(None, max_length=100, description="Mistral's; float only")
    user: str | None = Field(None, max_length=1000, description="not used")


@router.post("/embeddings", openapi_extra=body_of(EmbeddingsRequest))
async def embeddings(
    request: Request, services: Having, caller: Caller,
    body: Annotated[EmbeddingsRequest, json_body(EmbeddingsRequest)],
) -> Response:
    """A vector of length 1 for each text. A model for chat gives the mean of its last states."""
    encoding, keep = _encoding(body), same(body, "dimensions", "output_dimension")
    inputs = inputs_of(body.input)
    _check_route(services, body.model)

    async def work(model: str) -> tuple[Card, dict[str, Any]]:
        card = await text_card(services, model)
        if keep is not None and card.embedding is not None and keep > card.embedding:
            raise _too_many(keep, card.embedding)
        spec = checked(EmbedSpec, model=card.id, inputs=inputs)
        return card, await measured(services, spec, caller, {"inputs": "input"})

    card, found = await attended(request, by_target(services, body.model, work))
    vectors = found["vectors"]
    if keep is not None and keep > len(vectors[0]):
        raise _too_many(keep, len(vectors[0]))
    data = [{"object": "embedding", "index": index, "embedding": _told(shortened(vector, keep), encoding)}
            for index, vector in enumerate(vectors)]
    used = int(found["tokens"])
    more = {} if keep is None else {"dimensions": {"kept": keep, "of": len(vectors[0]), "normalized": True}}
    return JSONResponse({"id": f"embd-{secrets.token_hex(12)}", "object": "list", "data": data, "model": card.id,
                         "usage": {"prompt_tokens": used, "total_tokens": used}, **more})


def _check_route(services: Services, model: str) -> None:
    """Raises InvalidRequest for a route whose vectors would come from one model today and from another tomorrow."""
    route = services.router.routes.get(model)
    if route is not None and len(route.targets) > 1 and not route.same_vectors:
        raise InvalidRequest(
            f"model {model!r} is a route over {len(route.targets)} models, and vectors of different models cannot be "
            "compared: name one of them, or, where all are the same model, set same_vectors for the route",
            param="model", code="vectors_differ")


def inputs_of(value: Any, name: str = "input") -> tuple[str | tuple[int, ...], ...]:
    """Raises InvalidRequest."""
    if _is_input(value):
        return (tuple(value) if isinstance(value, list) else value,)
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            f"{name} must be text, a list of texts, or token ids, and not empty, not {shown(value)}", param=name)
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"{name} has {len(value)} entries, at most {MAX_INPUTS} are taken", param=name)
    for index, one in enumerate(value):
        if not _is_input(one):
            raise InvalidRequest(f"{name}[{index}] must be text or token ids, and not empty, not {shown(one)}",
                                 param=f"{name}[{index}]")
    return tuple(tuple(one) if isinstance(one, list) else one for one in value)


def shortened(vector: list[float], keep: int | None) -> list[float]:
    """The first `keep` numbers, at length 1; as it is where `keep` is None."""
    if keep is None or keep == len(vector):
        return vector
    kept = vector[:keep]
    length = math.sqrt(math.fsum(value * value for value in kept))
    return [value / length for value in kept] if length else kept


def _encoding(body: EmbeddingsRequest) -> str:
    if body.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest(
            f"encoding_format is {shown(body.encoding_format)}, not float or base64", param="encoding_format")
    if body.output_dtype not in (None, "float"):
        raise not_supported("output_dtype", shown(body.output_dtype))
    return body.encoding_format or "float"


def _told(vector: list[float], encoding: str) -> list[float] | str:
    """base64: float32, little-endian."""
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _is_input(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value)


def _too_many(keep: int, there: int) -> InvalidRequest:
    return InvalidRequest(f"dimensions is {keep}, but the vectors of this model have {there} numbers",
                          param="dimensions")
