"""Tools that the server runs for a model: Python functions, web services, and those of MCP servers.

All come from the operator: from the settings, or registered over the API with the scope admin. No request brings code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from diptych.core.chat import NAME, Tool
from diptych.core.errors import Conflict, DiptychError, Forbidden, InvalidRequest, NotFound, Unavailable
from diptych.core.tools import HttpTool
from diptych.library.addresses import AllowList
from diptych.settings import Settings
from diptych.text.mcp import McpConnection
from diptych.text.registry_calls import call_http, load_function
from diptych.text.tools import arguments_schema

Kind = Literal["python", "http", "mcp"]
Run = Callable[[dict[str, Any]], Awaitable[Any]]
FILE = "tools.json"
MOST = 1000
_ODD = re.compile(r"[^a-zA-Z0-9_.-]")


class ToolError(Exception):
    """A call that came to nothing; the message is told to the model."""


@dataclass(frozen=True)
class Registered:
    """`source` is what an operator calls the place it is from; `removable`: registered over the API."""

    tool: Tool
    kind: Kind
    source: str
    run: Run
    timeout_seconds: float
    removable: bool = False


class Registry:
    """Used by one event loop, from `open` to `close`, which ends the programs that it started."""

    def __init__(self, settings: Settings) -> None:
        """Raises InvalidRequest for a tool of the settings that cannot be used."""
        self._settings, self._path = settings, settings.data_dir / FILE
        self._fixed: dict[str, Registered] = {}
        for reference in settings.tools:
            tool, run = load_function(reference)
            self._fix(Registered(tool, "python", reference, run, settings.tool_seconds), f"tools {reference!a}")
        for described in settings.http_tools:
            self._fix(self._http(described, False), f"http_tools {described.name!a}")
        self._own: dict[str, HttpTool] = {}
        self._servers = {name: McpConnection(name, server) for name, server in settings.mcp_servers.items()}
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Raises Unavailable when the tools that were registered cannot be read."""
        self._own = await asyncio.to_thread(_load, self._path)

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def all(self) -> tuple[dict[str, Registered], list[str]]:
        """The tools by name, and a line for every MCP server that does not answer."""
        found = {**self._fixed, **{name: self._http(tool, True) for name, tool in self._own.items()}}
        problems: list[str] = []
        listed = await asyncio.gather(*map(self._of_server, self._servers), return_exceptions=True)
        for name, result in zip(self._servers, listed, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, DiptychError):
                    raise result
                problems.append(result.message)
                continue
            for one in result:
                found.setdefault(one.tool.name, one)
            problems += [] if result else [f"MCP server {name!r} has no tools"]
        return found, problems

    async def chosen(self, names: list[str] | None) -> dict[str, Registered]:
        """The tools of these names; `server.*` stands for all that begin so, None for all there are.

        Raises:
            InvalidRequest: there is no such tool. Unavailable: its MCP server does not answer.
        """
        found, problems = await self.all()
        if names is None:
            return found
        made: dict[str, Registered] = {}
        for index, name in enumerate(names):
            matching = {key: tool for key, tool in found.items()
                        if key == name or (name.endswith("*") and key.startswith(name[:-1]))}
            if not matching:
                down = [problem for problem in problems if repr(name.partition(".")[0]) in problem]
                if down:
                    raise Unavailable(down[0], param=f"tools[{index}]")
                raise InvalidRequest(f"tools[{index}] is {name[:100]!a}, but the registered tools are: "
                                     f"{', '.join(list(found)[:30]) or 'none'}", param=f"tools[{index}]")
            made |= matching
        return made

    async def call(self, one: Registered, arguments: dict[str, Any], seconds: float) -> str:
        """The result as text.

        Raises:
            ToolError: what went wrong, in words for the model.
        """
        limit = min(seconds, one.timeout_seconds)
        try:
            return as_text(await asyncio.wait_for(one.run(arguments), limit))
        except asyncio.TimeoutError:
            raise ToolError(f"no answer within {limit:.0f} seconds") from None
        except DiptychError as error:
            raise ToolError(error.message) from None
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
            raise ToolError(f"the arguments are not right: {faults}") from None
        except Exception as error:  # a tool's own fault, whatever it is, is for the model to know
            raise ToolError(f"{type(error).__name__}: {str(error)[:1000]}") from error

    async def add(self, tool: HttpTool) -> Registered:
        """Register a web service; it is still there after a restart.

        Raises:
            Conflict: the name is taken by another kind of tool. Forbidden: its host is not one of `fetch_hosts`.
            InvalidRequest: its schema cannot be held.
        """
        made = self._http(tool, True)
        self._check_host(tool)
        await asyncio.to_thread(arguments_schema, made.tool, "parameters")
        async with self._lock:
            if tool.name in self._fixed or tool.name.partition(".")[0] in self._servers:
                raise Conflict(f"name: {tool.name!r} is a tool of the settings", param="name")
            if len(self._own) >= MOST and tool.name not in self._own:
                raise Conflict(f"there are {MOST} tools already", param="name")
            own = {**self._own, tool.name: tool}
            await asyncio.to_thread(_save, self._path, own)
            self._own = own
        return made

    async def remove(self, name: str) -> None:
        """Raises NotFound; Conflict for a tool that is not registered over the API."""
        async with self._lock:
            if name not in self._own:
                if name in self._fixed or name.partition(".")[0] in self._servers:
                    raise Conflict(f"{name[:100]!a} is a tool of the settings: remove it there", param="name")
                raise NotFound(f"there is no tool {name[:100]!a}", param="name")
            own = {key: tool for key, tool in self._own.items() if key != name}
            await asyncio.to_thread(_save, self._path, own)
            self._own = own

    def _fix(self, one: Registered, where: str) -> None:
        if one.tool.name in self._fixed:
            raise InvalidRequest(f"{where}: there are two tools of the name {one.tool.name!r}", param="tools")
        arguments_schema(one.tool, where)
        self._fixed[one.tool.name] = one

    def _http(self, described: HttpTool, removable: bool) -> Registered:
        async def run(arguments: dict[str, Any]) -> Any:
            return await asyncio.to_thread(call_http, described, arguments, self._settings)

        tool = Tool(name=described.name, description=described.description, parameters=described.parameters)
        return Registered(tool, "http", described.url, run, described.timeout_seconds, removable)

    def _check_host(self, tool: HttpTool) -> None:
        host = tool.url.split("/")[2].rsplit(":", 1)[0]
        if not AllowList.of(self._settings.fetch_hosts).names_host(host.strip("[]")):
            raise Forbidden(f"url: {host[:100]!a} is not one of the setting fetch_hosts; add it there", param="url",
                            code="url_not_allowed")

    async def _of_server(self, name: str) -> list[Registered]:
        connection = self._servers[name]
        made = []
        for listed in await connection.tools():
            full = f"{name}.{_ODD.sub('_', listed.name)}"[:128]

            async def run(arguments: dict[str, Any], called: str = listed.name) -> Any:
                return await connection.call(called, arguments)

            assert re.fullmatch(NAME, full)
            tool = Tool(name=full, description=listed.description[:10_000], parameters=listed.parameters)
            made.append(Registered(tool, "mcp", name, run, connection.timeout_seconds))
        return made


def as_text(value: Any) -> str:
    """A result as the model is told it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _load(path: Path) -> dict[str, HttpTool]:
    """Raises Unavailable for a file that was changed by hand and is not right."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {entry["name"]: HttpTool.model_validate(entry) for entry in raw}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Unavailable(f"{path} cannot be read ({type(error).__name__}): repair it, or take it away") from error


def _save(path: Path, tools: Mapping[str, HttpTool]) -> None:
    """Whole or not at all; only the owner may read it, because headers hold keys."""
    work = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump([tool.model_dump(mode="json") for tool in tools.values()], file, ensure_ascii=False)
        work.replace(path)
    except OSError as error:
        raise Unavailable(f"the tool could not be kept ({error.strerror}): make room on the disk") from error
    finally:
        with contextlib.suppress(OSError):
            work.unlink(missing_ok=True)


