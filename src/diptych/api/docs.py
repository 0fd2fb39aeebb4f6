"""OpenAPI for bodies that are read by `diptych.api.body` and not by FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from diptych.api.docs_page import POLICY, page
from diptych.api.errors import ANTHROPIC
from diptych.api.policy import needed_scope

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key: `Authorization: Bearer dk_…`"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "the same key, as Anthropic's "
                  "clients send it"},
}
NEEDED: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}, {}]
"""One of these; nothing at all where the server asks for no key."""
REF = "#/components/schemas/{model}"
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string"}, "type": {"type": "string"},
            "param": {"type": ["string", "null"], "description": "the field that was wrong"},
            "code": {"type": ["string", "null"], "description": "a stable word that a program can test for"},
        },
    }},
    "examples": [{"error": {"message": "steps: input should be less than or equal to 1000, not 1001",
                            "type": "invalid_request_error", "param": "steps", "code": "invalid_value"}}],
}


ANTHROPIC_ERROR: dict[str, Any] = {
    "type": "object", "required": ["type", "error"], "properties": {"type": {"const": "error"}, "error": {
        **ERROR["properties"]["error"], "required": ["type", "message"]}}}
"""Below /v1/messages."""


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route with this body."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def install_openapi(app: FastAPI, bodies: list[type[BaseModel]]) -> None:
    """Serve a description of the API that has the models of the bodies and the one shape of all errors, for programs
    (`/openapi.json`) and for people (`/docs`)."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bodies)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    async def docs() -> Response:
        return Response(page(openapi()), media_type="text/html", headers={"content-security-policy": POLICY})

    app.add_api_route("/docs", docs, include_in_schema=False)


def _document(app: FastAPI, bodies: list[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {**definitions["$defs"], "Error": ERROR, "AnthropicError": ANTHROPIC_ERROR}
    told = {name: {"description": "Refused or failed", "content": {"application/json": {
        "schema": {"$ref": REF.format(model=name)}}}} for name in ("Error", "AnthropicError")}
    document["components"]["securitySchemes"] = SCHEMES
    document["security"] = NEEDED
    for place, path in document["paths"].items():
        for method, operation in path.items():
            scope = needed_scope(method.upper(), place)
            if scope is None:
                operation["security"] = []
            elif scope:
                operation["x-diptych-scope"] = scope
            operation["responses"].pop("422", None)
            operation["responses"]["4XX"] = told["AnthropicError" if place.startswith(ANTHROPIC) else "Error"]
    return document
