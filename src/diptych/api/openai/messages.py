"""From OpenAI's messages to those of `core/chat.py`."""

from __future__ import annotations

import json
from typing import Any

from diptych.api.errors import not_supported, path_of, shown
from diptych.api.openai.checked import checked, list_at, object_at, text_at
from diptych.api.openai.pictures import Pictures
from diptych.api.openai.schema import ChatMessage
from diptych.api.openai.unsupported import MESSAGE, refuse_unsupported
from diptych.core.chat import ContentPart, ImagePart, Message, TextPart, ToolCall
from diptych.core.errors import InvalidRequest

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
         "function": "tool"}
SAFE_PROMPT = (
    "Be careful, honest and respectful in all you say. Help as well as you safely can, do no harm, and stay clear of "
    "prejudice and contempt.")
"""What `safe_prompt` puts before a conversation."""


def messages_of(given: list[ChatMessage], pictures: Pictures) -> list[Message]:
    """Raises InvalidRequest."""
    made: list[Message] = []
    for index, message in enumerate(given):
        made.append(_message(message, path_of(("messages", index)), made, pictures))
    for index, earlier in enumerate(made[:-1]):
        if earlier.prefix:
            where = f"messages[{index}].prefix"
            raise InvalidRequest(f"{where}: only the last message can be a prefix", param=where)
    return made


def _message(message: ChatMessage, where: str, before: list[Message], pictures: Pictures) -> Message:
    if message.role not in ROLES:
        raise InvalidRequest(
            f"{where}.role is {shown(message.role)}, not one of {', '.join(ROLES)}", param=f"{where}.role")
    refuse_unsupported(message, MESSAGE, f"{where}.")
    role = ROLES[message.role]
    _check_fields(message, role, where)
    values: dict[str, Any] = {"role": role, "name": message.name}
    content, thought = content_of(message.content, f"{where}.content", pictures, role)
    if role == "assistant":
        values["tool_calls"] = _calls(message, where)
        given = message.reasoning_content or message.more.get("reasoning")
        values["reasoning"] = (given if isinstance(given, str) else None) or thought or None
        values["prefix"] = bool(message.prefix)
    if role == "tool":
        values["tool_call_id"] = _answered(message, before)
    if message.content is None and not values.get("tool_calls"):
        raise InvalidRequest(f"{where}.content is missing", param=f"{where}.content",
                             code="missing_required_parameter")
    return checked(Message, where, content=content, **values)


def _check_fields(message: ChatMessage, role: str, where: str) -> None:
    """Fields that belong to other roles."""
    for name, owner in (("tool_calls", "assistant"), ("function_call", "assistant"), ("prefix", "assistant"),
                        ("reasoning_content", "assistant"), ("tool_call_id", "tool")):
        if getattr(message, name) and role != owner:
            raise InvalidRequest(
                f"{where}.{name} belongs to messages of the role {owner}, not {message.role}", param=f"{where}.{name}")


def _calls(message: ChatMessage, where: str) -> tuple[ToolCall, ...]:
    if message.function_call is not None:
        if message.tool_calls:
            raise InvalidRequest(f"{where}.function_call is the old form of tool_calls; give one of them",
                                 param=f"{where}.function_call")
        place = f"{where}.function_call"
        return (_call(f"call_{where}", message.function_call, place),)
    if message.tool_calls is None:
        return ()
    found = []
    for index, item in enumerate(list_at(message.tool_calls, f"{where}.tool_calls", most=1000)):
        place = path_of((f"{where}.tool_calls", index))
        entry = object_at(item, place)
        if entry.get("type", "function") != "function":
            raise not_supported(f"{place}.type", f"a call of type {shown(entry.get('type'))}")
        id = entry.get("id")
        id = f"call_{place}" if id is None else text_at(id, f"{place}.id", empty=False)
        found.append(_call(id, entry.get("function"), f"{place}.function", place))
    return tuple(found)


def _call(id: str, function: Any, where: str, within: str = "") -> ToolCall:
    entry = object_at(function, where, "an object with name and arguments")
    arguments = entry.get("arguments", "{}")
    if isinstance(arguments, dict):  # Mistral's clients
        arguments = json.dumps(arguments, ensure_ascii=False)
    return checked(ToolCall, within or where, id=id, name=text_at(entry.get("name"), f"{where}.name", empty=False),
                   arguments=text_at(arguments, f"{where}.arguments"))


def _answered(message: ChatMessage, before: list[Message]) -> str | None:
    """The id of the call that a tool's message answers. A `function` message, the old form, has only the name."""
    if message.tool_call_id is not None or message.role == "tool":
        return message.tool_call_id
    for earlier in reversed(before):
        for call in earlier.tool_calls:
            if call.name == message.name:
                return call.id
    return None


def content_of(
    content: Any, where: str, pictures: Pictures, role: str = "user",
) -> tuple[str | tuple[ContentPart, ...], str]:
    """`(content, what was thought)` of text, nothing, or a list of parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    thoughts: list[str] = []
    parts: list[ContentPart] = []
    for index, part in enumerate(list_at(content, where, "text or a list of parts")):
        made = _part(part, path_of((where, index)), pictures, thoughts)
        if isinstance(made, ImagePart) and role in ("assistant", "system"):
            place = path_of((where, index))
            raise InvalidRequest(f"{place}: pictures belong to messages of users and tools", param=place)
        if made is not None:
            parts.append(made)
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart)), "".join(thoughts)
    return tuple(parts), "".join(thoughts)


def _part(part: Any, where: str, pictures: Pictures, thoughts: list[str]) -> ContentPart | None:
    entry = object_at(part, where, "an object with a type")
    kind = entry.get("type")
    if kind in ("text", "input_text", "output_text"):
        return TextPart(text=text_at(entry.get("text"), f"{where}.text"))
    if kind == "refusal":
        return TextPart(text=text_at(entry.get("refusal"), f"{where}.refusal"))
    if kind in ("image_url", "input_image"):
        url = entry.get("image_url")
        place = f"{where}.image_url"
        if isinstance(url, dict):
            url, place = url.get("url"), f"{place}.url"
        return pictures.from_url(url, place)
    if kind == "thinking":  # Mistral's form of what the assistant thought
        given = entry.get("thinking")
        for index, item in enumerate([given] if isinstance(given, str) else list_at(given, f"{where}.thinking")):
            place = path_of((f"{where}.thinking", index))
            text = item if isinstance(item, str) else object_at(item, place).get("text")
            thoughts.append(text_at(text, f"{place}.text"))
        return None
    if isinstance(kind, str):
        raise not_supported(f"{where}.type", f"content of type {shown(kind)}")
    raise InvalidRequest(f"{where}.type must be text or image_url, not {shown(kind)}", param=f"{where}.type")
