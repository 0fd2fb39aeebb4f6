"""From requests of the responses API to specs."""

from __future__ import annotations

from typing import Any

from diptych.api.errors import not_supported, path_of, shown
from diptych.api.openai.checked import checked, list_at, object_at, text_at
from diptych.api.openai.convert import effort_of
from diptych.api.openai.messages import ROLES, content_of
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.responses_schema import ResponsesRequest
from diptych.api.openai.sampling import truncation_of
from diptych.api.openai.tools import choice_of, response_format, tools_of
from diptych.api.openai.unsupported import Neutral, refuse_unsupported
from diptych.core.chat import Message, OutputFormat, ToolCall
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ChatSpec, Sampling

LOGPROBS = "message.output_text.logprobs"
INCLUDES = (LOGPROBS, "reasoning.encrypted_content")
"""What a reasoning model thought is told openly: there is nothing encrypted to give, and nothing is missed."""


def _false(value: Any) -> bool:
    return value is False


UNSUPPORTED: dict[str, Neutral] = {
    "background": _false, "prompt": lambda value: False, "context_management": lambda value: value == [],
    "moderation": lambda value: False,
}


def response_spec(body: ResponsesRequest, pictures: Pictures) -> ChatSpec:
    """Raises InvalidRequest, and what `Pictures` does."""
    refuse_unsupported(body, UNSUPPORTED)
    for name in ("previous_response_id", "conversation"):
        if body.more.get(name) is not None:
            raise InvalidRequest(
                f"{name}: responses are not stored here; send the whole conversation in input (the items of the last "
                "response's output, and then what is new)", param=name, code="not_stored")
    choice, tools = choice_of(body.tool_choice, tools_of(body.tools, nested=False))
    messages = [] if body.instructions is None else [Message(role="system", content=body.instructions)]
    messages += _Input(pictures).read(body.input)
    form, effort = _text(body.text), _effort(body.reasoning)
    return checked(
        ChatSpec, model=body.model, messages=messages, tools=tools, tool_choice=choice, sampling=_sampling(body),
        parallel_tool_calls=body.parallel_tool_calls is not False, format=form, reasoning_effort=effort,
        **truncation_of(body.truncation))


def _sampling(body: ResponsesRequest) -> Sampling:
    names = ("temperature", "top_p", "repetition_stop")
    values: dict[str, Any] = {name: value for name in names if (value := getattr(body, name)) is not None}
    for index, name in enumerate(body.include or ()):
        if name not in INCLUDES:
            raise not_supported(f"include[{index}]", shown(name))
    if LOGPROBS in (body.include or ()):
        values["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise InvalidRequest(f"top_logprobs needs include: [{LOGPROBS!r}]", param="top_logprobs")
    return checked(Sampling, "", {"max_tokens": "max_output_tokens"}, **values, max_tokens=body.max_output_tokens)


def _text(value: Any) -> OutputFormat | None:
    if value is None:
        return None
    entry = object_at(value, "text")
    if entry.get("verbosity") not in (None, "medium"):
        raise not_supported("text.verbosity", shown(entry["verbosity"]))
    return response_format(entry.get("format"), "text.format")


def _effort(value: Any) -> str | None:
    if value is None:
        return None
    effort = object_at(value, "reasoning").get("effort")
    if effort is None:
        return None
    found = effort_of(text_at(effort, "reasoning.effort"), "reasoning.effort")
    return str(found)


class _Input:
    """Items become messages. What the assistant thought, said and called in one go is one message."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._made: list[Message] = []
        self._thought: str | None = None

    def read(self, value: Any) -> list[Message]:
        if isinstance(value, str):
            return [Message(role="user", content=value)]
        items = list_at(value, "input", "text or a list of items")
        if not items:
            raise InvalidRequest("input is empty", param="input")
        for index, item in enumerate(items):
            where = path_of(("input", index))
            entry = object_at(item, where, "an item")
            kind = entry.get("type", "message")
            readers = {"message": self._message, "function_call": self._call, "function_call_output": self._output,
                       "reasoning": self._reasoning}
            if not isinstance(kind, str):
                raise InvalidRequest(f"{where}.type must be text, not {shown(kind)}", param=f"{where}.type")
            if kind not in readers:
                raise not_supported(f"{where}.type", f"an item of type {shown(kind)}")
            readers[kind](entry, where)
        if not self._made:
            raise InvalidRequest("input has no message", param="input")
        return self._made

    def _message(self, entry: dict[str, Any], where: str) -> None:
        role = entry.get("role")
        roles = [name for name in ROLES if name not in ("tool", "function")]
        if role not in roles:
            raise InvalidRequest(f"{where}.role is {shown(role)}, not one of {', '.join(roles)}", param=f"{where}.role")
        if entry.get("content") is None:
            raise InvalidRequest(f"{where}.content is missing", param=f"{where}.content",
                                 code="missing_required_parameter")
        content, _ = content_of(entry["content"], f"{where}.content", self._pictures, ROLES[role])
        thought = self._take_thought() if role == "assistant" else None
        self._made.append(Message(role=ROLES[role], content=content, reasoning=thought))

    def _call(self, entry: dict[str, Any], where: str) -> None:
        call = checked(ToolCall, where, {"id": "call_id"}, id=text_at(entry.get("call_id"), f"{where}.call_id"),
                       name=text_at(entry.get("name"), f"{where}.name"),
                       arguments=text_at(entry.get("arguments", "{}"), f"{where}.arguments"))
        last = self._made[-1] if self._made else None
        if last is not None and last.role == "assistant" and self._thought is None:
            self._made[-1] = last.model_copy(update={"tool_calls": (*last.tool_calls, call)})
        else:
            self._made.append(Message(role="assistant", tool_calls=(call,), reasoning=self._take_thought()))

    def _output(self, entry: dict[str, Any], where: str) -> None:
        id = text_at(entry.get("call_id"), f"{where}.call_id", empty=False)
        if entry.get("output") is None:
            raise InvalidRequest(f"{where}.output is missing", param=f"{where}.output",
                                 code="missing_required_parameter")
        content, _ = content_of(entry["output"], f"{where}.output", self._pictures, "tool")
        self._made.append(checked(Message, where, {"tool_call_id": "call_id"}, role="tool", content=content,
                                  tool_call_id=id))

    def _reasoning(self, entry: dict[str, Any], where: str) -> None:
        texts = []
        for name in ("content", "summary"):
            for index, part in enumerate(list_at(entry.get(name) or [], f"{where}.{name}")):
                place = path_of((f"{where}.{name}", index))
                texts.append(text_at(object_at(part, place).get("text"), f"{place}.text"))
            if texts:
                break
        self._thought = "".join(texts) or None

    def _take_thought(self) -> str | None:
        thought, self._thought = self._thought, None
        return thought
