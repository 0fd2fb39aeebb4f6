"""Specs as the bodies of OpenAI's API, for a server that is not ours. Pure."""

from __future__ import annotations

from typing import Any

from diptych.core.chat import Message, NamedChoice, OutputFormat
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, CompletionSpec, EmbedSpec, LiveSpec, Sampling

OPENAI = ("frequency_penalty", "presence_penalty", "seed", "max_tokens", "stop", "logit_bias")
"""Fields of OpenAI's API, sent where they are not at their defaults."""
ELSEWHERE = {"logprobs", "temperature", "top_p", "repetition_stop", "dry_base", "dry_allowed_length",
             "dry_penalty_last_n", "dry_sequence_breakers", "repeat_last_n"}
"""Fields that are sent in another way, that the gateway looks after itself, or that mean nothing on their own."""


def request_of(spec: LiveSpec, model: str, fields: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Path and body of the request.

    Args:
        model: what the other server calls it.
        fields: sampling fields beyond OpenAI's that it knows.

    Raises:
        InvalidRequest: the spec asks for what such a server cannot do; names the field.
    """
    if isinstance(spec, EmbedSpec):
        return "embeddings", {"model": model, "encoding_format": "float", "input": [
            given if isinstance(given, str) else list(given) for given in spec.inputs]}
    if not isinstance(spec, ChatSpec | CompletionSpec):
        raise _refused("model", f"work of kind {spec.kind!r}")
    if spec.adapters:
        raise _refused("adapters", "adapters")
    if spec.truncation != "disabled":
        raise _refused("truncation", "truncation 'auto'")
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True},
            **_sampling(spec.sampling, fields)}
    if isinstance(spec, CompletionSpec):
        return "completions", body | _completion(spec)
    return "chat/completions", body | _chat(spec, fields)


def _completion(spec: CompletionSpec) -> dict[str, Any]:
    if spec.format is not None:
        raise _refused(spec.format.field, "forms of completions")
    body: dict[str, Any] = {"prompt": spec.prompt if isinstance(spec.prompt, str) else list(spec.prompt)}
    if spec.suffix is not None:
        body["suffix"] = spec.suffix
    if spec.echo:
        body["echo"] = True
    if spec.sampling.logprobs is not None:
        body["logprobs"] = spec.sampling.logprobs
    return body


def _chat(spec: ChatSpec, fields: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in spec.messages]}
    if spec.tools:
        body["tools"] = [{"type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            **({"strict": True} if tool.strict else {})}} for tool in spec.tools]
        choice = spec.tool_choice
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}} if isinstance(
            choice, NamedChoice) else choice
        if not spec.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if spec.format is not None:
        body["response_format"] = _format(spec.format)
    if spec.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": spec.sampling.logprobs}
    if spec.reasoning_effort is not None:
        body["reasoning_effort"] = spec.reasoning_effort
    if spec.template_options:
        if "chat_template_kwargs" not in fields:
            raise _refused("template_options", "options of a chat template")
        body["chat_template_kwargs"] = spec.template_options
    return body


def _message(message: Message) -> dict[str, Any]:
    if message.prefix:
        raise _refused("messages", "an assistant's text that is continued (prefix)")
    return message.body(_content(message))


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [{"type": "text", "text": part.text} if part.type == "text" else {
        "type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{part.data}"}}
        for part in message.content]


def _format(asked: OutputFormat) -> dict[str, Any]:
    if asked.kind == "json_object":
        return {"type": "json_object"}
    if asked.kind == "json_schema":
        return {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": asked.value, "strict": asked.strict}}
    raise _refused(asked.field, f"answers of the form {asked.kind!r}")


def _sampling(sampling: Sampling, fields: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    for name in sampling.model_fields_set - ELSEWHERE:
        value = getattr(sampling, name)
        if value == type(sampling).model_fields[name].get_default(call_default_factory=True):
            continue
        if name not in OPENAI and name not in fields:
            raise _refused(name, f"the sampling field {name}")
        body[name] = list(value) if isinstance(value, tuple) else value
    return body


def _refused(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: this model is served by another server, which does not take {what}; leave it out "
                          "or use a model of this server", param=param, code="unsupported_value")
