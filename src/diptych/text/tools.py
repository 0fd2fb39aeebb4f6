"""Tools of a request: the grammar of their calls, and how a model is told of them whose template cannot. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from diptych.core.chat import Message, NamedChoice, Tool
from diptych.core.errors import InvalidRequest
from diptych.core.grammars import NAMED, with_ids
from diptych.core.specs import ChatSpec
from diptych.text.dialects import GENERIC, Dialect
from diptych.text.formats import Form
from diptych.text.grammar import check
from diptych.text.schema import JsonSchema, compile_schema

_MIXED = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "additionalProperties", "unevaluatedProperties",
          "dependentSchemas", "dependencies", "if", "not")
HOW = """You can call functions. To call one, write nothing but this, with the arguments as JSON:
<tool_call>
{"name": "the function's name", "arguments": {"name of an argument": "its value"}}
</tool_call>
"""
RESULT = "<tool_response>\n{}\n</tool_response>"


@dataclass(frozen=True)
class Offer:
    """What an answer may call. `grammar` is None where the model writes freely and what it writes is read afterwards.
    `forced`: the answer has to be a call."""

    dialect: Dialect
    schemas: Mapping[str, JsonSchema]
    grammar: str | None
    forced: bool
    unheld: tuple[str, ...]


def offer_of(spec: ChatSpec, dialect: Dialect, form: Form | None) -> Offer:
    """Args:
        form: what the answer has to be where it is no call; None for free text.

    Raises:
        InvalidRequest: a tool's schema cannot be held; a form that cannot stand beside calls.
    """
    forced = spec.tool_choice == "required" or isinstance(spec.tool_choice, NamedChoice)
    tools = [tool for tool in spec.tools
             if not isinstance(spec.tool_choice, NamedChoice) or tool.name == spec.tool_choice.name]
    schemas = {tool.name: arguments_schema(tool, f"tools[{spec.tools.index(tool)}].function.parameters")
               for tool in tools}
    if not forced and form is None and not any(tool.strict for tool in tools):
        return Offer(dialect, schemas, None, False, ())
    if form is not None and not forced and form.rules is None:
        raise InvalidRequest("a grammar as the form of the answer cannot be used together with tools, unless one of "
                             "them is required; use a JSON schema", param="response_format")
    if dialect.bare and not forced:
        dialect = GENERIC if form is not None else dialect
    # A model that was never taught to call repeats itself rather than choose to end.
    once = isinstance(spec.tool_choice, NamedChoice) or dialect is GENERIC
    parallel = spec.parallel_tool_calls and not once
    rules = dialect.rules([(name, schema.rule) for name, schema in schemas.items()], parallel)
    grammar = _start(dialect, rules, None if forced else form, forced)
    check(with_ids(grammar, {}), "tools")
    unheld = tuple(dict.fromkeys(key for schema in schemas.values() for key in schema.unheld))
    if form is not None and not forced:
        unheld = (*unheld, *form.unheld)
    return Offer(dialect, schemas, grammar, forced, unheld)


def _start(dialect: Dialect, rules: str, form: Form | None, forced: bool) -> str:
    if forced:
        return f"{NAMED}start: calls\n{rules}"
    if form is not None:
        return f"{NAMED}start: form | calls\n{form.rules}\n{rules}"
    if dialect.name == "llama3":
        return f"{NAMED}start: FREE | calls\nFREE: /([^{{\\s](.|\\n)*)?/\n{rules}"
    if dialect.by_control_token:
        return f"{NAMED}start: FREE? calls?\nFREE: /(.|\\n)+/\n{rules}"
    # As soon as the free text ends in the mark, it is the beginning of a call.
    return f"{NAMED}start: FREE | head body\nFREE: /(.|\\n)*/\nhead[lazy]: /(.|\\n)*{dialect.openers[0]}/\n{rules}"


def arguments_schema(tool: Tool, where: str) -> JsonSchema:
    """The schema of a tool's arguments: of an object; one that lists its properties has no others.

    Raises:
        InvalidRequest: it is of something else, or cannot be held.
    """
    parameters = tool.parameters or {"type": "object", "properties": {}}
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise InvalidRequest(f"{where}.type is {str(kind)[:80]!a}; arguments are an object", param=f"{where}.type")
    closed = {**parameters, "type": "object"}
    if "properties" in closed and not any(key in closed for key in _MIXED):
        closed["additionalProperties"] = False
    return compile_schema(closed, where)


def described(spec: ChatSpec) -> ChatSpec:
    """The conversation for a template that knows no tools: they are told in the system message, calls and results are
    part of the text."""
    messages = tuple(_as_text(message) for message in spec.messages)
    if not spec.tools or spec.tool_choice == "none":
        return spec.model_copy(update={"messages": messages, "tools": ()})
    told = HOW + "The functions, as JSON:\n" + "\n".join(
        json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                   ensure_ascii=False) for tool in spec.tools)
    first = messages[0]
    if first.role == "system":
        messages = (first.model_copy(update={"content": f"{first.text}\n\n{told}"}), *messages[1:])
    else:
        messages = (Message(role="system", content=told), *messages)
    return spec.model_copy(update={"messages": messages, "tools": ()})


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=RESULT.format(message.text))
    if not message.tool_calls:
        return message
    calls = [f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
             for call in message.tool_calls]
    return message.model_copy(update={
        "content": "\n".join([*([message.text] if message.text else []), *calls]), "tool_calls": ()})
