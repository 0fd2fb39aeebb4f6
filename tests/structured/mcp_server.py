"""A real MCP server: `python mcp_server.py` speaks over standard input and output, with a port over streamable HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("numbers")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@server.tool()
def fail(number: int) -> str:
    """Always fails."""
    raise ToolError(f"it failed because of {number}")


@server.tool()
def end() -> str:
    """End this program at once."""
    os._exit(1)


@server.tool()
def wait(seconds: float) -> str:
    """Take some time."""
    time.sleep(seconds)
    return "done"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
