"""`/api/tools`: the tools that the server runs for agents."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.services import Having
from diptych.core.tools import HttpTool
from diptych.text.registry import Registered

router = APIRouter(prefix="/api/tools", tags=["agents"])


class ToolRequest(HttpTool):
    """A web service that models may call. Its host has to be one of the setting `fetch_hosts`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "name": "weather", "description": "The weather in a city", "method": "GET",
        "url": "https://weather.example.org/v1/now", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]})


class ToolView(BaseModel):
    """A registered tool. `source` is the function, address or MCP server behind it; headers are never shown."""

    name: str
    description: str
    parameters: dict[str, Any]
    kind: Literal["python", "http", "mcp"]
    source: str
    timeout_seconds: float
    removable: bool = Field(description="whether it was registered over this API")


class ToolList(BaseModel):
    """`problems` has a line for every MCP server that does not answer."""

    tools: list[ToolView]
    problems: list[str]


class Removed(BaseModel):
    name: str
    removed: bool = True


@router.get("")
async def list_tools(services: Having) -> ToolList:
    """All tools that agents may be given."""
    found, problems = await services.tools.all()
    return ToolList(tools=[tool_view(one) for one in found.values()], problems=problems)


@router.post("", status_code=201, openapi_extra=body_of(ToolRequest))
async def add_tool(services: Having, body: Annotated[ToolRequest, json_body(ToolRequest)]) -> ToolView:
    """Register a web service as a tool, or replace the one of the same name. It is kept over restarts."""
    return tool_view(await services.tools.add(HttpTool.model_validate(body.model_dump())))


@router.delete("/{name}")
async def remove_tool(services: Having, name: str) -> Removed:
    """Forget a tool that was registered over this API."""
    await services.tools.remove(name)
    return Removed(name=name)


def tool_view(one: Registered) -> ToolView:
    return ToolView(name=one.tool.name, description=one.tool.description, parameters=one.tool.parameters,
                    kind=one.kind, source=one.source, timeout_seconds=one.timeout_seconds, removable=one.removable)
