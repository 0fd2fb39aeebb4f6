"""How Python functions and web services are called."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import TypeAdapter, ValidationError, validate_call
from pydantic.errors import PydanticUserError

from diptych.core.chat import Tool
from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.tools import HttpTool
from diptych.library.fetch import send_allowed
from diptych.settings import Settings

_PLACE = re.compile(r"\{([a-zA-Z0-9_]{1,100})\}")
MAX_TOLD = 1000


def load_function(reference: str) -> tuple[Tool, Callable[[dict[str, Any]], Awaitable[Any]]]:
    """A function of the operator's, from `package.module:function`. The schema of its arguments is that of its
    annotations, its description the docstring.

    Raises:
        InvalidRequest: there is no such function, or its arguments cannot be told as JSON.
    """
    module, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        checked = validate_call(function)
        schema = TypeAdapter(function).json_schema()
        tool = Tool(name=name, description=inspect.getdoc(function) or "", parameters=schema)
    except (ImportError, AttributeError, TypeError, ValueError, PydanticUserError, ValidationError) as error:
        raise InvalidRequest(
            f"tools: {reference!a} is no function that can be used ({type(error).__name__}: {str(error)[:200]}); give "
            "package.module:function with annotated arguments", param="tools") from error
    if schema.get("type") != "object":
        raise InvalidRequest(f"tools: {reference!a} has arguments without a name", param="tools")

    async def run(arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            return _plain(await checked(**arguments))
        return _plain(await asyncio.to_thread(lambda: checked(**arguments)))

    return tool, run


def _plain(value: Any) -> Any:
    """Models and dates as JSON values."""
    return value if isinstance(value, str) else TypeAdapter(Any).dump_python(value, mode="json")


def call_http(tool: HttpTool, arguments: dict[str, Any], settings: Settings) -> Any:
    """What a web service answers: JSON values or text. Blocks.

    Raises:
        Forbidden: its host is not allowed. Unavailable: it cannot be reached, or answers with an error.
    """
    used = set(_PLACE.findall(tool.url))
    missing = sorted(used - arguments.keys())
    if missing:
        raise InvalidRequest(f"{missing[0]} is missing", param=missing[0])
    url = _PLACE.sub(lambda found: quote(_told(arguments[found[1]]), safe=""), tool.url)
    rest = {name: value for name, value in arguments.items() if name not in used}
    body = None
    if tool.method == "POST":
        body = json.dumps(rest, ensure_ascii=False).encode()
    elif rest:
        url += ("&" if "?" in url else "?") + urlencode({name: _told(value) for name, value in rest.items()})
    answer = send_allowed(url, settings, method=tool.method, body=body, headers=tool.headers,
                          seconds=tool.timeout_seconds, param=tool.name)
    text = answer.data.decode("utf-8", "replace")
    if not 200 <= answer.status < 300:
        raise Unavailable(f"the service answered {answer.status}: {text[:MAX_TOLD]}", code="tool_failed")
    return text


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
