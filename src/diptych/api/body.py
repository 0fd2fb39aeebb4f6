"""Request bodies: read up to a limit, parsed strictly, checked against a model."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Depends
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from diptych.api.errors import UnsupportedMedia, path_of, refusal, shown
from diptych.core.errors import InvalidRequest, TooLarge

MAX_DEPTH = 64
"""Lists and objects inside one another."""
LARGE = 64 * 1024
"""Bytes; a larger body is parsed in a thread, so that the others need not wait."""
DRAIN_BYTES = 64 * 1024 * 1024
"""So much of a body over the limit is read and thrown away: many clients hear an answer only after they have sent."""
MAX_DIGITS = 40

Model = TypeVar("Model", bound=BaseModel)
_Path = tuple[Any, ...]


def json_body(model: type[Model], *, pictures: bool = False) -> Any:
    """A FastAPI dependency: the request's JSON body as `model`.

    Args:
        pictures: it may hold pictures to work on, and so be as large as `settings.max_picture_body_bytes`.

    Raises (in the request):
        InvalidRequest: no JSON, or not what the model asks for; names the field, the value and the limits.
        TooLarge: over `settings.max_body_bytes`.
        UnsupportedMedia: another content type.
    """
    return Depends(reader(model, pictures=pictures))


def reader(model: type[Model], *, pictures: bool = False) -> Callable[[Request], Awaitable[Model]]:
    async def read(request: Request) -> Model:
        check_type(request, is_json, "application/json")
        settings = request.app.state.services.settings
        raw = await read_bytes(request, settings.max_picture_body_bytes if pictures else settings.max_body_bytes)
        if len(raw) > LARGE:
            return await run_in_threadpool(parse_model, model, raw)
        return parse_model(model, raw)

    return read


def parse_model(model: type[Model], raw: bytes) -> Model:
    """Raises InvalidRequest."""
    values = parse_json(raw)
    if not isinstance(values, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {shown(values)}", param="body")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refusal(error, known=model.model_fields) from None


async def read_bytes(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge when it is over `limit` bytes, whether or not its length was announced."""
    announced = request.headers.get("content-length", "")
    told = TooLarge(f"the body is over the limit of {limit} bytes", param="body", code="body_too_large")
    if announced.isdecimal() and int(announced[:20]) > limit and (
            int(announced[:20]) > DRAIN_BYTES or "expect" in request.headers):
        raise told
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max(limit, DRAIN_BYTES):
            raise told
        if size <= limit:
            parts.append(part)
    if size > limit:
        raise told
    return b"".join(parts)


def parse_json(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN or Infinity, whole Unicode, no NUL, integers of 64 bits, bounded nesting.

    Raises:
        InvalidRequest: names the place.
    """
    try:
        # Longer integers take quadratic time; cut ones are refused below just as well, with the field's name.
        value = json.loads(raw.decode("utf-8"), parse_int=lambda digits: int(digits[:MAX_DIGITS]))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})", param="body", code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InvalidRequest(f"the body is no valid JSON: {error}", param="body", code="invalid_json") from None
    _check_values(value, strings=b"\\u" in raw)
    return value


def is_json(kind: str) -> bool:
    """Other types can be sent by any web page without asking (CORS)."""
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def check_type(request: Request, accepted: Callable[[str], bool], wanted: str) -> None:
    """Raises UnsupportedMedia unless the body's content type is accepted and it is not packed.

    Args:
        accepted: of the type in small letters, without its parameters.
        wanted: what the refusal says that it must be.
    """
    given = request.headers.get("content-type", "")
    if not accepted(given.partition(";")[0].strip().lower()):
        raise UnsupportedMedia(
            f"Content-Type is {shown(given) if given else 'missing'}; it must be {wanted}", param="Content-Type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"Content-Encoding {shown(encoding)} is not read here", param="Content-Encoding")


def _check_values(value: Any, strings: bool) -> None:
    """`strings`: whether there may be escapes that stand for half characters or NUL."""
    waiting: list[tuple[Any, _Path]] = [([value], ())]
    while waiting:
        container, path = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise _too_deep()
        for key, item in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(item, (dict, list)):
                waiting.append((item, (*path, key)))
            elif isinstance(item, str):
                if strings:
                    _check_text(item, path, key)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise InvalidRequest(
                        f"{_name(path, key)} is {item}; it must be a finite number", param=_name(path, key))
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                raise InvalidRequest(
                    f"{_name(path, key)} is an integer of more than 64 bits", param=_name(path, key))
            if strings and isinstance(key, str):
                _check_text(key, path, key)


def _check_text(text: str, path: _Path, key: Any) -> None:
    if "\0" in text:
        raise InvalidRequest(f"{_name(path, key)} contains a NUL character", param=_name(path, key))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{_name(path, key)} contains half of a surrogate pair at character {error.start}",
                param=_name(path, key)) from None


def _name(path: _Path, key: Any) -> str:
    return path_of((*path, key)[1:]) or "body"


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body nests more than {MAX_DEPTH} lists or objects", param="body", code="invalid_json")
