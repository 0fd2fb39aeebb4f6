"""`/api/agents/run`: a model that uses the server's tools over several steps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from diptych.api.body import json_body
from diptych.api.docs import body_of
from diptych.api.live import ready, run
from diptych.api.native.schema import Body
from diptych.api.openai.checked import checked, object_at
from diptych.api.openai.convert import with_instruction
from diptych.api.openai.messages import messages_of
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.schema import ChatMessage
from diptych.api.openai.tools import choice_of, response_format
from diptych.api.services import Caller, Having, Services
from diptych.api.streams import EventStream, attended, sse
from diptych.core.chat import Message
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.events import Event
from diptych.core.image_options import ModelId
from diptych.core.specs import ChatSpec, Sampling
from diptych.text.agents import Agent, AgentEvent, Called, Ended, Limits, Returned
from diptych.text.registry import Registered

router = APIRouter(prefix="/api/agents", tags=["agents"])
_CHOICE: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}]}
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}


class AgentRequest(Body):
    """A task for a model, and the tools that it may use on the way."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"model": "starter-text", "input": "What is the weather in Paris?", "tools": ["weather"], "max_steps": 4}]})

    model: ModelId
    input: str | None = Field(None, min_length=1, description="the task; or give messages")
    messages: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="a conversation, as chat takes it")
    instructions: str | None = Field(None, min_length=1, description="put before the conversation's system message")
    tools: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None, max_length=1000, description="names of registered tools, server.* for all of an MCP server; all when "
        "left out")
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = Field(
        None, description="none, auto, required or a named one: of the first step")
    parallel_tool_calls: bool = True
    max_steps: int = Field(8, ge=1, le=100, description="times that the model is asked")
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="tokens that it makes in all steps together")
    max_seconds: float = Field(300.0, gt=0, le=86_400, description="for everything")
    max_result_bytes: int = Field(16_384, ge=1, le=10_000_000, description="of a tool's result that the model is told")
    temperature: float = Field(0.7, ge=0.0, le=5.0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    response_format: Annotated[Any, WithJsonSchema({"type": "object"})] = Field(
        None, description="the form of the answer, as chat takes it")
    stream: bool = Field(False, description="answer with server-sent events: step, token, reasoning, tool_call, "
                         "tool_result, then finished or error")


class AgentView(BaseModel):
    """`reason`: stop, or the limit that ended the run. `messages` were added to the conversation."""

    model: str
    output: str
    reason: str
    steps: int
    tool_calls: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    usage: dict[str, int]


@router.post("/run", openapi_extra=body_of(AgentRequest), response_model=AgentView)
async def run_agent(
    request: Request, services: Having, caller: Caller, body: Annotated[AgentRequest, json_body(AgentRequest)],
) -> Response:
    """Have a model work on a task with the server's own tools. Ends when its client goes."""
    tools = await attended(request, services.tools.chosen(body.tools))
    spec = _spec(body, services, tools)
    await ready(services, spec)  # what can be refused is refused before anything is told

    async def answer(one: ChatSpec) -> AsyncGenerator[Event, None]:
        work = await ready(services, one)
        async with contextlib.aclosing(run(services, work, caller, one.sampling.seed)) as events:
            async for event in events:
                yield event

    agent = Agent(spec, tools, answer, services.tools.call,
                  Limits(body.max_steps, body.max_tokens, body.max_seconds, body.max_result_bytes))
    if body.stream:
        return EventStream(_events(agent))
    return JSONResponse(await attended(request, _whole(agent, body.model)))


def _spec(body: AgentRequest, services: Services, tools: dict[str, Registered]) -> ChatSpec:
    if (body.input is None) == (body.messages is None):
        raise InvalidRequest("give either input or messages", param="input" if body.messages is None else "messages")
    if body.input is not None:
        messages = [Message(role="user", content=body.input)]
    else:
        if not isinstance(body.messages, list) or not 0 < len(body.messages) <= 10_000:
            raise InvalidRequest("messages must be a list of 1 to 10000 messages", param="messages")
        messages = messages_of([_message(item, f"messages[{index}]") for index, item in enumerate(body.messages)],
                               Pictures(services.settings))
    if body.instructions is not None:
        messages = with_instruction(messages, body.instructions)
    offered = tuple(one.tool for one in tools.values())
    choice, offered = choice_of(body.tool_choice, offered)
    return checked(
        ChatSpec, model=body.model, messages=messages, tools=offered, tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls, format=response_format(body.response_format),
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, seed=body.seed))


def _message(value: Any, where: str) -> ChatMessage:
    return checked(ChatMessage, where, None, **object_at(value, where))


async def _whole(agent: Agent, model: str) -> dict[str, Any]:
    calls: dict[str, dict[str, Any]] = {}
    ended: Ended | None = None
    async with contextlib.aclosing(agent.run()) as events:
        async for event in events:
            if isinstance(event, Called):
                calls[event.id] = {"step": event.step, "id": event.id, "name": event.name,
                                   "arguments": event.arguments}
            elif isinstance(event, Returned):
                calls[event.id] |= {"content": event.content, "error": event.error, "seconds": event.seconds}
            elif isinstance(event, Ended):
                ended = event
    assert ended is not None
    messages = [message.model_dump(mode="json", exclude_defaults=True) | {"role": message.role, "content": message.text}
                for message in agent.messages]
    return AgentView(model=model, output=ended.output, reason=ended.reason, steps=ended.steps,
                     tool_calls=list(calls.values()), messages=messages, usage=ended.usage).model_dump(mode="json")


async def _events(agent: Agent) -> AsyncGenerator[str, None]:
    try:
        async with contextlib.aclosing(agent.run()) as events:
            async for event in events:
                yield _told(event)
    except DiptychError as error:
        yield sse({"type": "error", **error.body()}, event="error")


def _told(event: AgentEvent) -> str:
    values = event.model_dump(mode="json")
    return sse(values, event=values["type"])
