"""Conversations that are judged rather than answered. Pure."""

from __future__ import annotations

from typing import Any

from diptych.api.errors import shown
from diptych.api.openai.checked import list_at, object_at, text_at
from diptych.core.errors import InvalidRequest

MOST = 256
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TALK: dict[str, Any] = {"anyOf": [
    {"type": "object", "required": ["messages"], "properties": {"messages": {"type": "array"}}},
    {"type": "array", "items": {"type": "object"}}]}
TALKS: dict[str, Any] = {"anyOf": [*_TALK["anyOf"], {"type": "array", "items": _TALK}]}


def talks_in(value: Any, name: str) -> list[tuple[str, str]]:
    """Conversations as `(what the client calls it, its text)`: `{"messages": […]}`, a list of messages, or a list of
    such. Raises InvalidRequest."""
    if isinstance(value, dict):
        return [(name, _talk(value, name))]
    given = list_at(value, name, "a conversation: {messages}, a list of messages, or a list of these", MOST)
    if not given:
        raise InvalidRequest(f"{name} is empty", param=name)
    if isinstance(given[0], dict) and "messages" not in given[0]:
        return [(name, _talk(given, name))]
    return [(f"{name}[{index}]", _talk(one, f"{name}[{index}]")) for index, one in enumerate(given)]


def _talk(value: Any, where: str) -> str:
    """The text of one message, or of several with who says each."""
    if isinstance(value, dict):
        where, value = f"{where}.messages", value.get("messages")
    messages = list_at(value, where, "a list of messages")
    if not messages:
        raise InvalidRequest(f"{where} has no message", param=where)
    said = [_message(message, f"{where}[{index}]") for index, message in enumerate(messages)]
    return said[0][1] if len(said) == 1 else "\n".join(f"{role}: {text}" for role, text in said)


def _message(value: Any, where: str) -> tuple[str, str]:
    message = object_at(value, where, "a message")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role is {shown(role)}, not one of {', '.join(ROLES)}", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    return str(role), text_at(content, f"{where}.content", empty=False)


def _part(value: Any, where: str) -> str:
    part = object_at(value, where, "a part with type text")
    if part.get("type") != "text":
        raise InvalidRequest(f"{where}.type is {shown(part.get('type'))}, not text", param=f"{where}.type")
    return text_at(part.get("text"), f"{where}.text")
