"""From OpenAI's tools, tool choices and response formats to the words of `core/chat.py`. Pure."""

from __future__ import annotations

from typing import Any, Literal

from diptych.api.errors import not_supported, path_of, shown
from diptych.api.openai.checked import checked, flag_at, list_at, object_at, text_at
from diptych.api.openai.schema import ChatRequest, SamplingFields
from diptych.core.chat import NamedChoice, OutputFormat, Tool, ToolChoice
from diptych.core.errors import InvalidRequest

MAX_TOOLS = 1000
_CHOICES: dict[str, Literal["none", "auto", "required"]] = {
    "none": "none", "auto": "auto", "required": "required", "any": "required"}
"""`any` is Mistral's word."""


def tools_of(value: Any, name: str = "tools", *, nested: bool = True) -> tuple[Tool, ...]:
    """`nested`: whether a function's fields are in an object `function` of their own (chat), or not (responses)."""
    if value is None:
        return ()
    found: list[Tool] = []
    for index, item in enumerate(list_at(value, name, "a list of tools", MAX_TOOLS)):
        where = path_of((name, index))
        entry = object_at(item, where)
        kind = entry.get("type", "function" if nested else None)
        if kind != "function":
            if isinstance(kind, str):
                raise not_supported(f"{where}.type", f"a tool of type {shown(kind)}")
            raise InvalidRequest(f"{where}.type must be function, not {shown(kind)}", param=f"{where}.type")
        place = f"{where}.function" if nested else where
        found.append(function_of(entry.get("function") if nested else entry, place))
    return distinct(found, name)


def functions_of(value: Any) -> tuple[Tool, ...]:
    """The old field `functions`."""
    if value is None:
        return ()
    return distinct([function_of(item, path_of(("functions", index)))
                     for index, item in enumerate(list_at(value, "functions", "a list of functions", MAX_TOOLS))],
                    "functions")


def function_of(value: Any, where: str, schema: str = "parameters") -> Tool:
    """One tool. `schema`: what the client calls the field of its arguments' JSON schema."""
    entry = object_at(value, where, "an object with name and parameters")
    values = {"name": entry.get("name"), "description": entry.get("description") or ""}
    if "name" not in entry:
        raise InvalidRequest(f"{where}.name is missing", param=f"{where}.name", code="missing_required_parameter")
    if entry.get(schema) is not None:
        values["parameters"] = object_at(entry[schema], f"{where}.{schema}", "a JSON schema")
    if entry.get("strict") is not None:
        values["strict"] = flag_at(entry["strict"], f"{where}.strict")
    return checked(Tool, where, {"parameters": schema}, **values)


def distinct(tools: list[Tool], name: str) -> tuple[Tool, ...]:
    """Raises InvalidRequest when two tools have one name."""
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise InvalidRequest(f"{name}[{index}]: there are two tools of the name {tool.name!r}", param=name)
        seen.add(tool.name)
    return tuple(tools)


def choice_of(value: Any, tools: tuple[Tool, ...], name: str = "tool_choice") -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools that it leaves. Raises InvalidRequest when it needs a tool that is not there."""
    if value is None:
        return "auto", tools
    if isinstance(value, str):
        if value not in _CHOICES:
            raise InvalidRequest(
                f"{name} is {shown(value)}, not none, auto, required or an object that names a function", param=name)
        return need_tools(_CHOICES[value], tools, name), tools
    entry = object_at(value, name, "none, auto, required or an object")
    if entry.get("type") == "allowed_tools":
        return _allowed(entry, tools, name)
    if entry.get("type", "function") != "function":
        raise InvalidRequest(f"{name}.type is {shown(entry.get('type'))}, not function", param=f"{name}.type")
    place = f"{name}.function" if "function" in entry else name
    inner = object_at(entry["function"], place) if "function" in entry else entry
    return named(inner.get("name"), tools, f"{place}.name"), tools


def named(value: Any, tools: tuple[Tool, ...], where: str) -> NamedChoice:
    wanted = text_at(value, where, empty=False)
    names = [tool.name for tool in tools]
    if wanted not in names:
        raise InvalidRequest(
            f"{where} is {shown(wanted)}, but tools has {', '.join(names[:20]) or 'none'}", param=where)
    return NamedChoice(name=wanted)


def need_tools(choice: ToolChoice, tools: tuple[Tool, ...], name: str) -> ToolChoice:
    if choice == "required" and not tools:
        raise InvalidRequest(f"{name} asks for a call, but there are no tools", param=name)
    return choice


def _allowed(entry: dict[str, Any], tools: tuple[Tool, ...], name: str) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """OpenAI's `allowed_tools`: some of the tools only, with `mode` auto or required."""
    inner = object_at(entry.get("allowed_tools", entry), f"{name}.allowed_tools")
    mode = inner.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequest(f"{name}.mode is {shown(mode)}, not auto or required", param=name)
    wanted = set()
    for index, item in enumerate(list_at(inner.get("tools"), f"{name}.tools")):
        where = f"{name}.tools[{index}]"
        one = object_at(item, where)
        wanted.add(named(object_at(one.get("function", one), where).get("name"), tools, f"{where}.name").name)
    left = tuple(tool for tool in tools if tool.name in wanted)
    return need_tools("required" if mode == "required" else "auto", left, name), left


def chat_tools(body: ChatRequest) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """Of the new fields or of the old ones."""
    if body.functions is None and body.function_call is None:
        return choice_of(body.tool_choice, tools_of(body.tools))
    for name in ("tools", "tool_choice"):
        if getattr(body, name):
            old = "functions" if body.functions is not None else "function_call"
            raise InvalidRequest(f"{old} is the old form of tools; give one of them", param=old)
    tools = functions_of(body.functions)
    choice = body.function_call
    if choice is not None and choice not in ("none", "auto"):
        entry = object_at(choice, "function_call", "none, auto or an object with a name")
        return named(entry.get("name"), tools, "function_call.name"), tools
    return choice_of(choice, tools, "function_call")


def format_of(body: SamplingFields) -> OutputFormat | None:
    """The one form that is asked for, under whatever name. Raises InvalidRequest when there are two."""
    found = [(name, made) for name, made in _formats(body) if made is not None]
    if len(found) > 1:
        raise InvalidRequest(
            f"{found[0][0]} and {found[1][0]} both ask for a form of the answer; give one of them", param=found[1][0])
    return found[0][1] if found else None


def _formats(body: SamplingFields) -> list[tuple[str, OutputFormat | None]]:
    made = [("response_format", response_format(body.response_format))]
    for name, kind in (("grammar", "gbnf"), ("guided_grammar", "gbnf"), ("guided_regex", "regex")):
        if getattr(body, name):
            made.append((name, _form(kind, text_at(getattr(body, name), name), name)))
    if body.json_schema is not None:
        made.append(("json_schema", _form("json_schema", schema_at(body.json_schema, "json_schema"), "json_schema")))
    if body.guided_json is not None:
        made.append(("guided_json", _form("json_schema", schema_at(body.guided_json, "guided_json"), "guided_json")))
    if body.guided_choice:
        made.append(("guided_choice", _form("choice", body.guided_choice, "guided_choice")))
    if body.structured_outputs:
        made.append(("structured_outputs", _structured(body.structured_outputs)))
    return made


def response_format(value: Any, where: str = "response_format") -> OutputFormat | None:
    """OpenAI's formats, and Diptych's own: regex, choice, lark, gbnf, xml and yaml."""
    if value is None:
        return None
    entry = object_at(value, where, "an object with a type")
    kind = entry.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = entry.get("schema")  # llama.cpp's form
        return _form("json_object", None, where) if schema is None else \
            _form("json_schema", schema_at(schema, f"{where}.schema"), where, field=f"{where}.schema")
    if kind == "json_schema":
        return _json_schema(entry, where)
    fields = {"regex": "pattern", "choice": "choices", "lark": "grammar", "gbnf": "grammar", "xml": "schema",
              "yaml": "schema"}
    if kind not in fields:
        raise InvalidRequest(
            f"{where}.type is {shown(kind)}, not one of text, json_object, json_schema, {', '.join(fields)}",
            param=f"{where}.type")
    field = f"{where}.{fields[kind]}"
    given = entry.get(fields[kind])
    if kind == "choice":
        texts = [text_at(item, path_of((field, index)), empty=False) for index, item in
                 enumerate(list_at(given, field, "a list of texts"))]
        if not texts:
            raise InvalidRequest(f"{field} is empty", param=field)
        return _form("choice", texts, where, field=field)
    if kind in ("xml", "yaml"):
        return _form(kind, None if given is None else schema_at(given, field), where, field=field)
    return _form(kind, text_at(given, field, empty=False), where, field=field)


def _json_schema(entry: dict[str, Any], where: str) -> OutputFormat:
    """Chat has the schema inside `json_schema`, responses beside `type`, Mistral's clients call it `schema_definition`
    on their side and send `schema`."""
    place = f"{where}.json_schema" if "json_schema" in entry else where
    inner = object_at(entry["json_schema"], place) if "json_schema" in entry else entry
    if "schema" not in inner:
        raise InvalidRequest(f"{place}.schema is missing", param=f"{place}.schema", code="missing_required_parameter")
    strict = inner.get("strict")
    return _form("json_schema", schema_at(inner["schema"], f"{place}.schema"), where,
                 strict=True if strict is None else flag_at(strict, f"{place}.strict"), field=f"{place}.schema")


def schema_at(value: Any, where: str) -> Any:
    """A JSON schema: an object, or true and false, which allow everything and nothing."""
    if isinstance(value, bool):
        return value
    return object_at(value, where, "a JSON schema")


def _structured(value: Any) -> OutputFormat | None:
    """vLLM's `structured_outputs`."""
    where = "structured_outputs"
    entry = {key: item for key, item in object_at(value, where).items() if item is not None and item is not False}
    kinds = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "gbnf",
             "json_object": "json_object"}
    found = [key for key in entry if key in kinds]
    if len(found) != 1 or len(entry) != 1:
        raise InvalidRequest(f"{where} must have one of {', '.join(kinds)}, and nothing else", param=where)
    kind = found[0]
    if kind == "json_object":
        return response_format({"type": "json_object"}, where)
    fields = {"json": "schema", "regex": "pattern", "choice": "choices", "grammar": "grammar"}
    return response_format({"type": kinds[kind], fields[kind]: entry[kind]}, where)


def _form(kind: str, value: Any, where: str, strict: bool = True, field: str | None = None) -> OutputFormat:
    """`field`: where the value is, if that is not `where` itself."""
    return checked(OutputFormat, where, kind=kind, value=value, strict=strict, field=field or where)
