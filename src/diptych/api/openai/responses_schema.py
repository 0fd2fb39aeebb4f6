"""Requests of OpenAI's responses API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema

from diptych.api.openai.schema import Flag, Guarded, ModelId, Number

_INPUT: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_OBJECT: dict[str, Any] = {"type": "object"}
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_CHOICE: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}]}


class ResponsesRequest(Guarded):
    """Nothing is stored: each request brings its whole conversation in `input`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "input": "What is the capital of France?", "temperature": 0,
        "max_output_tokens": 64}]})

    model: ModelId
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(description="text, or a list of items")
    instructions: str | None = Field(None, description="a system message before the input")
    max_output_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: Number = Field(None, ge=0.0, le=5.0)
    top_p: Number = Field(None, gt=0.0, le=1.0)
    top_logprobs: int | None = Field(None, ge=0, le=20, description="told where include asks for logprobs")
    stream: Flag = None
    tools: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="[{type: function, name, parameters}]")
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = None
    parallel_tool_calls: Flag = None
    text: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="{format: {type, …}}")
    reasoning: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="{effort}")
    truncation: str | None = Field(None, max_length=100, description="auto or disabled")
    include: list[str] | None = Field(None, max_length=20, description="message.output_text.logprobs")
    metadata: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="given back as it is")
    repetition_stop: Flag = Field(None, description="Diptych's own: end an answer that goes round in circles")
