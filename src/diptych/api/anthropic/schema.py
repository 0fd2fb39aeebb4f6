"""Requests of Anthropic's API. Unknown fields are ignored; those that would change the answer and are not built are
refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema

from diptych.api.openai.schema import Compatible, Flag, Guarded, ModelId, Number

_BLOCKS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {
    "type": "object", "required": ["type"], "properties": {"type": {"enum": [
        "text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "document"]}}}}]}
_OBJECT: dict[str, Any] = {"type": "object"}
_OBJECTS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}


class AnthropicMessage(Compatible):
    role: str = Field(max_length=100, description="user or assistant")
    content: Annotated[Any, WithJsonSchema(_BLOCKS)] = Field(description="text, or a list of blocks")


class CountTokensRequest(Compatible):
    """What a prompt is made of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "messages": [{"role": "user", "content": "What is the capital of France?"}]}]})

    model: ModelId
    messages: list[AnthropicMessage] = Field(
        min_length=1, max_length=10_000, description="where the last is the assistant's, the answer goes on from it")
    system: Annotated[Any, WithJsonSchema(_BLOCKS)] = Field(None, description="text, or a list of text blocks")
    tools: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(None, description="[{name, description, input_schema}]")
    tool_choice: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="{type: auto, any, none, or tool with name; disable_parallel_tool_use}")
    thinking: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="{type: disabled, adaptive, or enabled with budget_tokens}")
    output_config: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        None, description="{format: {type: json_schema, schema}, effort}")
    output_format: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(None, description="{type: json_schema, schema}")


class MessagesRequest(CountTokensRequest, Guarded):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "max_tokens": 64, "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}]}]})

    max_tokens: int = Field(ge=1, le=1_000_000)
    temperature: Number = Field(None, ge=0.0, le=5.0)
    top_p: Number = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    stop_sequences: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(
        None, description="up to 16 texts that end the answer")
    stream: Flag = None
    repetition_stop: Flag = Field(None, description="Diptych's own: end an answer that goes round in circles")
