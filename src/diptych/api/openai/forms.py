"""Requests that are sent as multipart/form-data: fields as text, and files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from diptych.api.body import check_type, read_bytes
from diptych.api.docs import REF
from diptych.api.errors import path_of, refusal
from diptych.core.errors import InvalidRequest

MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 20, 100, 128 * 1024
Model = TypeVar("Model", bound=BaseModel)
_BINARY = {"type": "string", "format": "binary"}


@dataclass
class Form:
    """What was sent: the texts of each field, and the bytes of each file, in their order. `name[]` is `name`."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)

    def file(self, name: str) -> bytes | None:
        """The one file of a field. Raises InvalidRequest where there are several, or text."""
        if name in self.texts:
            raise InvalidRequest(f"{name} must be a file, not text", param=name)
        found = self.files.get(name, [])
        if len(found) > 1:
            raise InvalidRequest(f"{name} has {len(found)} files, but only one is supported", param=name,
                                 code="not_supported")
        return found[0] if found else None

    def needed(self, name: str) -> bytes:
        """The same; raises InvalidRequest where there is none."""
        found = self.file(name)
        if found is None:
            raise InvalidRequest(f"{name} is missing", param=name, code="missing_required_parameter")
        return found

    def body(self, model: type[Model], lists: Iterable[str] = ()) -> Model:
        """The fields as a request, numbers read from their text. `lists`: fields that may come several times.

        Raises:
            InvalidRequest: names the field.
        """
        values: dict[str, Any] = {}
        for name, texts in self.texts.items():
            if len(texts) > 1 and name not in lists:
                raise InvalidRequest(f"{path_of([name])} is there {len(texts)} times", param=path_of([name]))
            values[name] = texts if name in lists else texts[0]
        for name in self.files:
            if name in model.model_fields:
                raise InvalidRequest(f"{name} must be text, not a file", param=name)
        try:
            return model.model_validate(values, strict=False)
        except ValidationError as error:
            raise refusal(error) from None


async def read_form(request: Request) -> Form:
    """The whole form, up to `settings.max_picture_body_bytes`.

    Raises:
        InvalidRequest: no valid form. TooLarge: over the limit. UnsupportedMedia: another content type.
    """
    given = request.headers.get("content-type", "")
    check_type(request, lambda kind: kind == "multipart/form-data", "multipart/form-data")
    raw = await read_bytes(request, request.app.state.services.settings.max_picture_body_bytes)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield raw

    try:
        parsed = await MultiPartParser(Headers({"content-type": given}), stream(), max_files=MAX_FILES,
                                       max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES).parse()
    except (MultiPartException, LookupError, ValueError) as error:
        reason = getattr(error, "message", "") or "its boundary or character set is missing or not known"
        raise InvalidRequest(f"the body is no valid multipart/form-data: {reason}", param="body",
                             code="invalid_multipart") from None
    try:
        form = Form()
        for name, value in parsed.multi_items():
            bare = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                form.files.setdefault(bare, []).append(await value.read())
            else:
                form.texts.setdefault(bare, []).append(_text(value, bare))
        return form
    finally:
        await parsed.close()


def form_of(model: type[BaseModel], needed: tuple[str, ...], files: tuple[str, ...]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes such a form."""
    pictures = {"type": "object", "required": list(needed), "properties": dict.fromkeys((*needed, *files), _BINARY)}
    schema = {"allOf": [{"$ref": REF.format(model=model.__name__)}, pictures]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _text(value: str, name: str) -> str:
    if "\0" in value:
        raise InvalidRequest(f"{path_of([name])} contains a NUL character", param=path_of([name]))
    return value
