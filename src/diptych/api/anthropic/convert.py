"""From Anthropic's requests to specs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from diptych.api.anthropic.schema import CountTokensRequest, MessagesRequest
from diptych.api.errors import not_supported, path_of, shown
from diptych.api.openai.checked import checked, flag_at, list_at, object_at, text_at
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.sampling import stops_of
from diptych.api.openai.tools import distinct, function_of, named, need_tools, response_format
from diptych.api.openai.unsupported import Neutral, refuse_unsupported
from diptych.core.chat import ContentPart, Message, OutputFormat, TextPart, Tool, ToolCall, ToolChoice
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, Sampling

EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
LOW_BUDGET, MEDIUM_BUDGET = 2048, 8192
"""Tokens of thinking, up to which a budget is a low or medium effort."""


def _empty(value: Any) -> bool:
    return value in ([], {}, "")


UNSUPPORTED: dict[str, Neutral] = {
    "container": _empty, "mcp_servers": _empty, "context_management": _empty,
    "speed": lambda value: bool(value == "standard"),
}


def message_spec(body: MessagesRequest, pictures: Pictures) -> ChatSpec:
    """Raises InvalidRequest, and what `Pictures` does."""
    names = ("temperature", "top_p", "top_k", "repetition_stop")
    values = {name: value for name in names if (value := getattr(body, name)) is not None}
    if isinstance(body.stop_sequences, str):
        raise InvalidRequest("stop_sequences must be a list of texts, not text", param="stop_sequences")
    stop = stops_of(body.stop_sequences, "stop_sequences")
    return prompt_spec(body, pictures, checked(Sampling, **values, max_tokens=body.max_tokens, stop=stop))


def prompt_spec(body: CountTokensRequest, pictures: Pictures, sampling: Sampling) -> ChatSpec:
    """Raises InvalidRequest, and what `Pictures` does."""
    refuse_unsupported(body, UNSUPPORTED)
    tools = _tools(body.tools)
    choice, parallel = _choice(body.tool_choice, tools)
    effort, form = _output(body)
    messages = _system(body.system)
    for index, message in enumerate(body.messages):
        messages += _Turn(path_of(("messages", index)), pictures).read(message.role, message.content)
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages[-1] = messages[-1].model_copy(update={"prefix": True})
    return checked(ChatSpec, model=body.model, messages=messages, tools=tools, tool_choice=choice, sampling=sampling,
                   parallel_tool_calls=parallel, format=form, reasoning_effort=effort)


def _system(value: Any) -> list[Message]:
    if value is None or value == "" or value == []:
        return []
    return [Message(role="system", content=_texts(value, "system"))]


def _texts(value: Any, where: str) -> str:
    """Text, or the texts of blocks."""
    if isinstance(value, str):
        return value
    texts = []
    for index, block in enumerate(list_at(value, where, "text or a list of text blocks")):
        place = path_of((where, index))
        entry = object_at(block, place)
        if entry.get("type") != "text":
            raise InvalidRequest(f"{place}.type must be text, not {shown(entry.get('type'))}", param=f"{place}.type")
        texts.append(text_at(entry.get("text"), f"{place}.text"))
    return "\n\n".join(texts)


class _Turn:
    """One of Anthropic's messages. What tools answered is part of a user's message there, and messages of their own
    here, before the rest of it."""

    def __init__(self, where: str, pictures: Pictures) -> None:
        self._where, self._pictures = where, pictures
        self._parts: list[ContentPart] = []
        self._calls: list[ToolCall] = []
        self._results: list[Message] = []
        self._thoughts: list[str] = []

    def read(self, role: str, content: Any) -> list[Message]:
        if role == "system":
            return [Message(role="system", content=_texts(content, f"{self._where}.content"))]
        if role not in ("user", "assistant"):
            raise InvalidRequest(
                f"{self._where}.role is {shown(role)}, not user or assistant", param=f"{self._where}.role")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else \
            list_at(content, f"{self._where}.content", "text or a list of blocks")
        readers = self._readers(role)
        for index, block in enumerate(blocks):
            where = path_of((f"{self._where}.content", index))
            entry = object_at(block, where, "a block with a type")
            kind = entry.get("type")
            if not isinstance(kind, str):
                raise InvalidRequest(f"{where}.type must be text, not {shown(kind)}", param=f"{where}.type")
            if kind not in readers:
                raise not_supported(f"{where}.type", f"a block of type {shown(kind)} of the {role}")
            readers[kind](entry, where)
        return self._messages(role, bool(blocks))

    def _readers(self, role: str) -> dict[str, Callable[[dict[str, Any], str], None]]:
        if role == "user":
            return {"text": self._text, "image": self._image, "tool_result": self._result, "document": self._document}
        return {"text": self._text, "tool_use": self._call, "thinking": self._thought,
                "redacted_thinking": lambda entry, where: None}

    def _messages(self, role: str, any_blocks: bool) -> list[Message]:
        text_only = all(isinstance(part, TextPart) for part in self._parts)
        content: Any = "".join(part.text for part in self._parts if isinstance(part, TextPart)) if text_only else \
            tuple(self._parts)
        made = list(self._results)
        if content or self._calls or (not made and any_blocks) or not any_blocks:
            extra: dict[str, Any] = {}
            if role == "assistant":
                extra = {"tool_calls": tuple(self._calls), "reasoning": "".join(self._thoughts) or None}
            made.append(checked(Message, self._where, role=role, content=content, **extra))
        return made

    def _text(self, entry: dict[str, Any], where: str) -> None:
        self._parts.append(TextPart(text=text_at(entry.get("text"), f"{where}.text")))

    def _thought(self, entry: dict[str, Any], where: str) -> None:
        self._thoughts.append(text_at(entry.get("thinking"), f"{where}.thinking"))

    def _image(self, entry: dict[str, Any], where: str) -> None:
        self._parts.append(self._picture(entry, where))

    def _picture(self, entry: dict[str, Any], where: str) -> ContentPart:
        place = f"{where}.source"
        source = object_at(entry.get("source"), place)
        if source.get("type") == "base64":
            return self._pictures.from_base64(source.get("data"), f"{place}.data")
        if source.get("type") == "url":
            return self._pictures.from_url(source.get("url"), f"{place}.url")
        raise InvalidRequest(f"{place}.type is {shown(source.get('type'))}, not base64 or url", param=f"{place}.type")

    def _document(self, entry: dict[str, Any], where: str) -> None:
        """Of plain text; others would have to be unpacked first."""
        source = object_at(entry.get("source"), f"{where}.source")
        if source.get("type") != "text":
            raise not_supported(f"{where}.source.type", f"a document of type {shown(source.get('type'))}")
        if object_at(entry.get("citations") or {}, f"{where}.citations").get("enabled"):
            raise not_supported(f"{where}.citations", "this field")
        title = entry.get("title")
        head = f"{title}\n\n" if isinstance(title, str) and title else ""
        self._parts.append(TextPart(text=f"{head}{text_at(source.get('data'), f'{where}.source.data')}\n\n"))

    def _call(self, entry: dict[str, Any], where: str) -> None:
        arguments = json.dumps(object_at(entry.get("input", {}), f"{where}.input"), ensure_ascii=False)
        self._calls.append(checked(
            ToolCall, where, {"arguments": "input"}, id=text_at(entry.get("id"), f"{where}.id", empty=False),
            name=text_at(entry.get("name"), f"{where}.name", empty=False), arguments=arguments))

    def _result(self, entry: dict[str, Any], where: str) -> None:
        id = text_at(entry.get("tool_use_id"), f"{where}.tool_use_id", empty=False)
        content = entry.get("content", "")
        parts: list[ContentPart] = []
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else \
            list_at(content, f"{where}.content", "text or a list of blocks")
        for index, block in enumerate(blocks):
            place = path_of((f"{where}.content", index))
            inner = object_at(block, place)
            if inner.get("type") == "text":
                parts.append(TextPart(text=text_at(inner.get("text"), f"{place}.text")))
            elif inner.get("type") == "image":
                parts.append(self._picture(inner, place))
            else:
                raise not_supported(f"{place}.type", f"a block of type {shown(inner.get('type'))}")
        if entry.get("is_error"):
            parts.insert(0, TextPart(text="Error: "))
        made: Any = "".join(part.text for part in parts if isinstance(part, TextPart)) \
            if all(isinstance(part, TextPart) for part in parts) else tuple(parts)
        self._results.append(checked(
            Message, where, {"tool_call_id": "tool_use_id"}, role="tool", content=made, tool_call_id=id))


def _tools(value: Any) -> tuple[Tool, ...]:
    found = []
    for index, item in enumerate(list_at([] if value is None else value, "tools", "a list of tools", 1000)):
        where = path_of(("tools", index))
        kind = object_at(item, where).get("type") or "custom"
        if kind != "custom":
            raise not_supported(f"{where}.type", f"a tool of type {shown(kind)}")
        found.append(function_of(item, where, "input_schema"))
    return distinct(found, "tools")


def _choice(value: Any, tools: tuple[Tool, ...]) -> tuple[ToolChoice, bool]:
    """The choice, and whether calls may be parallel."""
    if value is None:
        return "auto", True
    entry = object_at(value, "tool_choice", "an object with a type")
    parallel = not flag_at(entry.get("disable_parallel_tool_use") or False, "tool_choice.disable_parallel_tool_use")
    kind = entry.get("type")
    if kind == "tool":
        return named(entry.get("name"), tools, "tool_choice.name"), parallel
    if kind == "any":
        return need_tools("required", tools, "tool_choice"), parallel
    if kind in ("auto", "none"):
        return kind, parallel
    raise InvalidRequest(
        f"tool_choice.type is {shown(kind)}, not auto, any, tool or none", param="tool_choice.type")


def _output(body: CountTokensRequest) -> tuple[str | None, OutputFormat | None]:
    """How hard to think, and the form of the answer."""
    config = object_at(body.output_config if body.output_config is not None else {}, "output_config")
    form = response_format(body.output_format, "output_format") or \
        response_format(config.get("format"), "output_config.format")
    effort = config.get("effort")
    if effort is not None and (not isinstance(effort, str) or effort not in EFFORTS):
        raise InvalidRequest(
            f"output_config.effort is {shown(effort)}, not one of {', '.join(EFFORTS)}", param="output_config.effort")
    thought = _thinking(body.thinking)
    if thought == "none" or effort is None:
        return thought, form
    return EFFORTS[effort], form


def _thinking(value: Any) -> str | None:
    if value is None:
        return None
    entry = object_at(value, "thinking", "an object with a type")
    kind = entry.get("type")
    if kind == "disabled":
        return "none"
    if kind == "adaptive":  # as the model sees fit
        return None
    if kind != "enabled":
        raise InvalidRequest(
            f"thinking.type is {shown(kind)}, not enabled, disabled or adaptive", param="thinking.type")
    budget = entry.get("budget_tokens")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise InvalidRequest(
            f"thinking.budget_tokens must be a number of tokens, not {shown(budget)}", param="thinking.budget_tokens")
    return "low" if budget <= LOW_BUDGET else "medium" if budget <= MEDIUM_BUDGET else "high"
