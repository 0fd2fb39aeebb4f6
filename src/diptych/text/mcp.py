"""Servers of the Model Context Protocol: their tools, over standard input and output or streamable HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import Unavailable
from diptych.core.tools import McpServer

PAGES = 50
"""Pages of a list of tools that are read."""
CLOSING_SECONDS = 5.0
CLOSED = -32000
"""The protocol's number of an error that is the connection's end."""


@dataclass(frozen=True)
class McpTool:
    name: str
    description: str
    parameters: dict[str, Any]


class McpConnection:
    """One server, connected when it is first needed, and again after it has gone. A task of its own holds the
    connection: the client has to be left by the task that entered it."""

    def __init__(self, name: str, server: McpServer) -> None:
        self._name, self._server = name, server
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._client: Any = None
        self._listed: list[McpTool] | None = None

    @property
    def timeout_seconds(self) -> float:
        return self._server.timeout_seconds

    async def tools(self) -> list[McpTool]:
        """Raises Unavailable when the server does not answer; one that has gone since it was last asked is connected to
        again first."""
        before = self._client
        try:
            return await self._list()
        except Unavailable:
            if before is None or self._client is before:  # it is new, or there and only slow
                raise
        return await self._list()

    async def _list(self) -> list[McpTool]:
        client = await self._connected()
        if self._listed is None:
            found: list[McpTool] = []
            cursor: str | None = None
            with self._told():
                for _ in range(PAGES):
                    page = await asyncio.wait_for(client.list_tools(cursor=cursor), self.timeout_seconds)
                    found += [McpTool(tool.name, tool.description or "", dict(tool.input_schema))
                              for tool in page.tools]
                    cursor = page.next_cursor
                    if not cursor:
                        break
            self._listed = found
        return self._listed

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """What the tool answers, as text. Raises Unavailable for an error of the tool or of the connection."""
        client = await self._connected()
        with self._told():
            result = await client.call_tool(name, arguments)
        text = "\n".join(_text_of(part) for part in result.content)
        if result.is_error:
            raise Unavailable(text or "the tool failed without a word", code="tool_failed")
        return result.structured_content if not text and result.structured_content is not None else text

    async def close(self) -> None:
        """End the connection, and the program that was started for it."""
        self._end.set()
        task = self._task
        if task is not None and not task.done():
            await asyncio.wait([task], timeout=CLOSING_SECONDS)
            task.cancel()
            await asyncio.wait([task])

    async def _connected(self) -> Any:
        async with self._lock:
            if self._task is not None and not self._task.done() and self._client is not None:
                return self._client
            if self._end.is_set():
                raise Unavailable(f"MCP server {self._name!r}: the server ends")
            self._client = self._listed = None
            ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._hold(ready))
            try:
                self._client = await asyncio.wait_for(asyncio.shield(ready), self.timeout_seconds)
            except Exception as error:
                self._task.cancel()
                await asyncio.wait([self._task])
                raise self._unavailable(error) from error
            return self._client

    async def _hold(self, ready: asyncio.Future[Any]) -> None:
        try:
            async with self._entered() as client:
                ready.set_result(client)
                await self._end.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            if self._task is asyncio.current_task():  # else another connection has taken its place
                self._client = None
            if not ready.done():
                ready.cancel()

    @contextlib.asynccontextmanager
    async def _entered(self) -> AsyncIterator[Any]:
        """The client library is imported only where a server is set."""
        from mcp import Client, StdioServerParameters

        server = self._server
        if server.command is not None:
            target: Any = StdioServerParameters(command=server.command, args=list(server.args), env=server.env)
            async with Client(target) as client:
                yield client
            return
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        timeout = httpx2.Timeout(self.timeout_seconds)
        async with httpx2.AsyncClient(headers=server.headers, timeout=timeout) as http, Client(
                streamable_http_client(server.url or "", http_client=http)) as client:
            yield client

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the connection as ours. A server that has gone is connected to again the next time."""
        try:
            yield
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception as error:
            if getattr(error, "code", CLOSED) == CLOSED:
                self._client = self._listed = None
                if self._task is not None:
                    self._task.cancel()
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        inner: BaseException = error
        while getattr(inner, "exceptions", None):  # a group of errors, of which one is the reason
            inner = inner.exceptions[0]  # type: ignore[attr-defined]
        reason = "it took too long" if isinstance(inner, asyncio.TimeoutError) else str(inner) or type(inner).__name__
        return Unavailable(f"MCP server {self._name!r} does not answer: {reason[:300]}", code="mcp_unavailable")


def _text_of(part: Any) -> str:
    """Pictures and sound are named, not told: the model is told text."""
    if part.type == "text":
        return str(part.text)
    if part.type == "resource" and getattr(part.resource, "text", None) is not None:
        return str(part.resource.text)
    return f"[{part.type}]"
