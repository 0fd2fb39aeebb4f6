"""Repairs of conversations, and what to leave out of one that is too long. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Callable, Sequence

from diptych.core.chat import Message, TextPart, ToolCall

MISTRAL_ID = re.compile(r"^[a-zA-Z0-9]{9}$")
_LETTERS = string.ascii_letters + string.digits


def mistral_id(id: str) -> str:
    """`id` where Mistral's models take it, else nine letters and digits that follow from it alone."""
    if MISTRAL_ID.match(id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


def with_mistral_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation with ids of tool calls that Mistral's models know the form of."""
    return tuple(message.model_copy(update={
        "tool_calls": tuple(call.model_copy(update={"id": mistral_id(call.id)}) for call in message.tool_calls),
        "tool_call_id": None if message.tool_call_id is None else mistral_id(message.tool_call_id),
    }) for message in messages)


def repaired(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Arguments of calls are JSON objects, and a tool's message without an id gets that of the call it must answer."""
    done: list[Message] = []
    open_calls: list[ToolCall] = []
    for message in messages:
        if message.tool_calls:
            calls = tuple(call.model_copy(update={"arguments": _object(call.arguments)}) for call in message.tool_calls)
            message = message.model_copy(update={"tool_calls": calls})
            open_calls = list(calls)
        elif message.role == "tool":
            message, open_calls = _answering(message, open_calls)
        done.append(message)
    return tuple(done)


def merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbouring messages of one role as one, with an empty line between: for templates that refuse two user turns
    in a row. Calls and answers of tools stay apart."""
    done: list[Message] = []
    for message in messages:
        last = done[-1] if done else None
        if last is None or last.role != message.role or message.role == "tool" or last.tool_calls:
            done.append(message)
        else:
            done[-1] = message.model_copy(update={"content": _joined(last, message)})
    return tuple(done)


def system_into_user(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System messages written before the first user message: for templates without a system role."""
    system = [message.text for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first = next((index for index, message in enumerate(rest) if message.role == "user"), None)
    if not system or first is None:
        return tuple(messages)
    before = Message(role="user", content="\n\n".join(system))
    rest[first] = rest[first].model_copy(update={"content": _joined(before, rest[first])})
    return tuple(rest)


def fitting(
    messages: Sequence[Message], fits: Callable[[tuple[Message, ...]], bool],
) -> tuple[tuple[Message, ...], int] | None:
    """The conversation without as few of its oldest turns as it takes to fit, and how many messages were left out;
    None where even the last turn alone does not fit. A turn goes from a user's message to the next one's; system
    messages and the last turn always stay."""
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    cuts = [0, *(start for start in starts if any(m.role != "system" for m in messages[:start]))]
    low, high = 0, len(cuts) - 1
    if not fits(_after(messages, cuts[high])):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_after(messages, cuts[middle])) else (middle + 1, high)
    kept = _after(messages, cuts[low])
    return kept, len(messages) - len(kept)


def _after(messages: Sequence[Message], cut: int) -> tuple[Message, ...]:
    return tuple(message for index, message in enumerate(messages) if index >= cut or message.role == "system")


def _answering(message: Message, open_calls: list[ToolCall]) -> tuple[Message, list[ToolCall]]:
    call = next((call for call in open_calls if call.id == message.tool_call_id), None)
    if call is None and open_calls and message.tool_call_id is None:
        call = open_calls[0]
        message = message.model_copy(update={"tool_call_id": call.id})
    if call is not None and message.name is None:
        message = message.model_copy(update={"name": call.name})
    return message, [other for other in open_calls if other is not call]


def _object(arguments: str) -> str:
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        found = arguments
    return arguments or "{}" if isinstance(found, dict) else json.dumps({"arguments": found}, ensure_ascii=False)


def _joined(first: Message, second: Message) -> str | tuple[object, ...]:
    if isinstance(first.content, str) and isinstance(second.content, str):
        return f"{first.content}\n\n{second.content}"
    parts = [part if not isinstance(part, str) else TextPart(text=part)
             for content in (first.content, "\n\n", second.content)
             for part in ([content] if isinstance(content, str) else content)]
    return tuple(parts)
