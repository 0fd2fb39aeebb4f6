"""The description of the API as one page: no script, nothing from elsewhere, so that it works offline and opens no
door into a server that trusts its own pages."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#222;background:#fff}"
    "code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f4f4f4;padding:.7rem;overflow-x:auto}"
    "section{border-top:1px solid #ddd;padding:.4rem 0}h3 code{font-weight:600}table{border-collapse:collapse}"
    "td,th{text-align:left;vertical-align:top;padding:.15rem .8rem .15rem 0}.m{color:#0a5}p{white-space:pre-line}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#262626}"
    "section{border-color:#444}a{color:#8bf}}")
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")
"""The page's Content-Security-Policy."""
Document = dict[str, Any]


def page(document: Document) -> str:
    """HTML of an OpenAPI document as `diptych.api.docs` makes it."""
    title = f"{document['info']['title']} {document['info']['version']}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>", f"<title>{_text(title)}</title><style>{STYLE}</style>",
        f"</head><body><h1>{_text(title)}</h1><p>{_text(document['info'].get('description', ''))}</p>",
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a></p>", *_contents(document)]
    for number, (path, method, operation) in enumerate(_operations(document)):
        parts += _operation(document, f"o{number}", path, method, operation)
    return "".join([*parts, "</body></html>"])


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _contents(document: Document) -> Iterator[str]:
    yield "<ul>"
    for number, (path, method, operation) in enumerate(_operations(document)):
        place = f"<a href='#o{number}'><code>{_text(method)} {_text(path)}</code></a>"
        yield f"<li>{place} {_text(_summary(operation))}</li>"
    yield "</ul>"


def _operation(document: Document, id: str, path: str, method: str, operation: Document) -> Iterator[str]:
    yield f"<section id='{id}'><h3><code><span class='m'>{_text(method)}</span> {_text(path)}</code></h3>"
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    scope = operation.get("x-diptych-scope")
    if scope:
        yield f"<p>Scope of an API key: <code>{_text(scope)}</code></p>"
    rows = [(item["name"], item["in"], item.get("required", False), item.get("schema", {}), item.get("description", ""))
            for item in operation.get("parameters", [])]
    content = operation.get("requestBody", {}).get("content", {})
    body: Document = next(iter(content.values()), {})
    schema = _resolved(document, body.get("schema", {}))
    required = schema.get("required", [])
    rows += [(name, "body", name in required, field, field.get("description", ""))
             for name, field in schema.get("properties", {}).items()]
    if rows:
        yield "<table><tr><th>field</th><th>in</th><th>type</th><th></th></tr>"
        for name, place, needed, field, told in rows:
            yield (f"<tr><td><code>{_text(name)}</code>{' (required)' if needed else ''}</td><td>{_text(place)}</td>"
                   f"<td>{_text(_type(document, field))}</td><td>{_text(told)}</td></tr>")
        yield "</table>"
    for example in schema.get("examples", []):
        yield f"<pre>{_text(json.dumps(example, ensure_ascii=False, indent=2))}</pre>"
    yield "</section>"


def _resolved(document: Document, schema: Document) -> Document:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Document = document["components"]["schemas"].get(name, schema) if name else schema
    return found


def _type(document: Document, schema: Document) -> str:
    """A schema in a few words."""
    schema = _resolved(document, schema)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            kinds = (_type(document, item) for item in schema[choice])
            return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "any"))
    bounds = [f"{sign} {schema[name]}" for name, sign in (
        ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")) if name in schema]
    default = f", default {json.dumps(schema['default'])}" if schema.get("default") is not None else ""
    items = f" of {_type(document, schema['items'])}" if kind == "array" and "items" in schema else ""
    return f"{kind}{items}{' ' if bounds else ''}{', '.join(bounds)}{default}"


def _summary(operation: Document) -> str:
    return str(operation.get("description", "")).strip().partition("\n")[0]


def _text(value: Any) -> str:
    return escape(str(value), quote=True)
