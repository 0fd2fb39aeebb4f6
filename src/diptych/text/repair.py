"""Messages as clients send them, mended where what they mean is plain. Pure.

Ids of calls are the client's own: another server made them, or a program. Mistral's prompts take nine letters or
digits only, so foreign ones are replaced in the prompt; the client keeps its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import string

from diptych.core.cards import Card
from diptych.core.chat import Message, ToolCall
from diptych.core.errors import InvalidRequest

_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_LETTERS = string.ascii_letters + string.digits


def repaired(messages: tuple[Message, ...], card: Card) -> tuple[Message, ...]:
    """Tool results get the id and name of the call that they answer; arguments that are no JSON object become one;
    ids get the form that the model's prompts need.

    Raises:
        InvalidRequest: a tool's message answers a call that nobody made.
    """
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return messages
    made = _matched(messages)
    return _renamed(made) if card.dialect == "mistral" else made


def _matched(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    made: list[Message] = []
    names: dict[str, str] = {}
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message.tool_calls:
            message = message.model_copy(update={"tool_calls": tuple(map(_mended, message.tool_calls))})
            waiting = [call.id for call in message.tool_calls]
            names |= {call.id: call.name for call in message.tool_calls}
        elif message.role == "tool":
            id = message.tool_call_id or (waiting[0] if waiting else None)
            if id is None or id not in names:
                where = f"messages[{index}].tool_call_id"
                told = f"is {id[:80]!a}, but no message before it made a call with this id" if id else \
                    "is missing, and no call before it waits for an answer"
                raise InvalidRequest(f"{where} {told}", param=where)
            waiting = [other for other in waiting if other != id]
            message = message.model_copy(update={"tool_call_id": id, "name": message.name or names[id]})
        made.append(message)
    return tuple(made)


def _mended(call: ToolCall) -> ToolCall:
    """Templates read the arguments as a JSON object. A malformed call of a model, sent back, is no client's fault."""
    try:
        value = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        value = call.arguments
    if isinstance(value, dict):
        return call if call.arguments else call.model_copy(update={"arguments": "{}"})
    return call.model_copy(update={"arguments": json.dumps({"input": value}, ensure_ascii=False)})


def _renamed(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    ids = {call.id for message in messages for call in message.tool_calls}
    taken = {id for id in ids if _MISTRAL_ID.fullmatch(id)}
    new: dict[str, str] = {}
    for id in sorted(ids - taken):
        new[id] = mistral_id(id, taken)
        taken.add(new[id])
    return tuple(message.model_copy(update={
        "tool_calls": tuple(call.model_copy(update={"id": new.get(call.id, call.id)}) for call in message.tool_calls),
        "tool_call_id": new.get(message.tool_call_id or "", message.tool_call_id)}) for message in messages)


def mistral_id(id: str, taken: set[str]) -> str:
    """Nine letters or digits that stand for `id`, the same ones each time, none of `taken`."""
    turn = 0
    while True:
        number = int.from_bytes(hashlib.sha256(f"{turn}:{id}".encode("utf-8", "surrogatepass")).digest(), "big")
        made = "".join(_LETTERS[number // 62**place % 62] for place in range(9))
        if made not in taken:
            return made
        turn += 1
