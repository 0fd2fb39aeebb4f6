"""Requests of OpenAI's API. Unknown fields are ignored; those that would change the answer and are not built yet are
here by name, so that they can be refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from diptych.core.specs import MAX_PROMPT, MAX_SEED

ModelId = Annotated[str, Field(min_length=1, max_length=300, description="id of a model; /v1/models lists them")]
Flag = bool | None
Number = float | None
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {
    "type": "object", "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}}}}]}


class Compatible(BaseModel):
    """Base of the bodies: JSON types as they are, further fields kept aside."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    @property
    def more(self) -> dict[str, Any]:
        """Fields that are not part of the model, as they were sent."""
        return self.__pydantic_extra__ or {}


class ChatMessage(Compatible):
    role: str = Field(max_length=100, description="system, developer, user or assistant")
    content: Annotated[Any, WithJsonSchema(_PARTS)] = Field(None, description="text, or a list of text parts")


class StreamOptions(Compatible):
    include_usage: Flag = Field(None, description="a last chunk with the token counts")


class SamplingFields(Compatible):
    """How tokens are chosen; for both kinds of text request."""

    temperature: Number = Field(None, ge=0.0, le=5.0, description="0: always the likeliest token")
    top_p: Number = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0: all")
    min_p: Number = Field(None, ge=0.0, le=1.0)
    frequency_penalty: Number = Field(None, ge=-2.0, le=2.0)
    presence_penalty: Number = Field(None, ge=-2.0, le=2.0)
    repeat_penalty: Number = Field(None, gt=0.0, le=5.0, description="llama.cpp's name")
    repetition_penalty: Number = Field(None, gt=0.0, le=5.0, description="vLLM's name for repeat_penalty")
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    stop: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(None, description="up to 16 texts that end the answer")
    stream: Flag = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, description="1; more answers are not supported yet")


class ChatRequest(SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0, "max_tokens": 64}]})

    model: ModelId
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)


class CompletionRequest(SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{
        "model": "starter-text", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}]})

    model: ModelId
    prompt: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(description="the text to continue")


class ImageRequest(Compatible):
    """OpenAI's fields, and Diptych's own from `negative_prompt` on."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"model": "starter", "prompt": "a red apple on a blue background", "n": 2, "response_format": "b64_json"},
        {"prompt": "a green cat", "size": "128x128", "stream": True, "partial_images": 2, "seed": 7}]})

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model: Annotated[str | None, Field(min_length=1, max_length=300)] = Field(
        None, description="id of an image model; `starter` when left out")
    n: int | None = Field(None, ge=1, le=64, description="pictures")
    size: str | None = Field(
        None, max_length=20, description="WIDTHxHEIGHT in pixels; auto: the model's own")
    response_format: str | None = Field(None, max_length=100, description="url (the default) or b64_json")
    stream: Flag = Field(None, description="answer with server-sent events; pictures are then always b64_json")
    partial_images: int | None = Field(None, ge=0, le=3, description="looks at each picture before it is done")
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: Number = Field(None, ge=1.0, le=50.0, description="guidance scale (CFG)")
    sampler: str | None = Field(None, max_length=100, description="A1111's name, e.g. DPM++ 2M")
    schedule: str | None = Field(None, max_length=100, description="automatic, normal or karras")
    seed: int | None = Field(None, ge=-1, le=MAX_SEED)
