"""A JSON schema as a tree of kinds of values, for documents that are not JSON (XML, YAML). Pure.

The subset: objects with listed properties (no others are written), lists with `items` and `prefixItems`, texts,
numbers, booleans, null, `enum` and `const` of single values, `anyOf` and `oneOf`, lists of types, references. What the
grammar cannot hold is left to the check, as for JSON; what has no place in such a document is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diptych.core.errors import InvalidRequest
from diptych.text.grammar import json_rule
from diptych.text.schema import JsonSchema, compile_schema

Kind = Literal["object", "array", "string", "number", "integer", "boolean", "null", "enum", "union"]
MAX_NODES = 3000
MAX_ITEMS = 10_000
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_NOTES = frozenset({"$defs", "x-guidance"})
_OF: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "minLength", "maxLength", "allOf"}),
    "number": frozenset(_NUMBERS), "integer": frozenset(_NUMBERS), "boolean": frozenset(), "null": frozenset()}


@dataclass(eq=False)
class Node:
    """One kind of value. `properties`: name, node, whether it is required. `patterns` are full matches. `rule` is the
    `%json` rule of numbers. `parts` are the alternatives of a union."""

    kind: Kind
    properties: list[tuple[str, Node, bool]] = field(default_factory=list)
    first: list[Node] = field(default_factory=list)
    items: Node | None = None
    least: int = 0
    most: int | None = None
    patterns: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    rule: str = ""
    free: bool = False
    parts: list[Node] = field(default_factory=list)


def tree_of(schema: Any, where: str, what: str) -> tuple[Node, JsonSchema]:
    """The tree, and the schema for the check.

    Args:
        what: "XML" or "YAML", for the errors.

    Raises:
        InvalidRequest: no valid schema, or something in it that has no place in such a document.
    """
    if schema is None:
        raise InvalidRequest(f"{where} is missing: {what} needs a JSON schema of the document", param=where,
                             code="missing_required_parameter")
    compiled = compile_schema(schema, where)
    return _Builder(compiled.held, where, what).root(), compiled


class _Builder:
    def __init__(self, held: Any, where: str, what: str) -> None:
        self._held, self._where, self._what = held, where, what
        self._targets: dict[str, Node] = {}
        self._count = 0

    def root(self) -> Node:
        return self._node(self._held, "")

    def _refuse(self, path: str, why: str) -> InvalidRequest:
        place = f"{self._where}{path}"
        return InvalidRequest(f"{place}: {why} for {self._what}", param=place, code="unsupported_schema")

    def _node(self, schema: Any, path: str) -> Node:
        self._count += 1
        if self._count > MAX_NODES:
            raise self._refuse("", f"more than {MAX_NODES} parts are too many")
        if not isinstance(schema, dict):
            raise self._refuse(path, "the type of each value is needed")
        if "$ref" in schema:
            if schema.keys() - _NOTES != {"$ref"}:
                raise self._refuse(path, "keywords beside $ref are not supported")
            return self._target(schema["$ref"], path)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                if schema.keys() - _NOTES - {key, "type"}:
                    raise self._refuse(path, f"keywords beside {key} are not supported")
                return Node("union", parts=[self._node(item, f"{path}.{key}[{index}]")
                                            for index, item in enumerate(schema[key])])
        if "enum" in schema or "const" in schema:
            return self._enum(schema, path)
        return self._typed(schema, path)

    def _target(self, ref: str, path: str) -> Node:
        if ref not in self._targets:
            node = self._targets[ref] = Node("null")
            made = self._node(self._held["$defs"][ref.rsplit("/", 1)[1]], path)
            node.__dict__.update(made.__dict__)
        return self._targets[ref]

    def _enum(self, schema: dict[str, Any], path: str) -> Node:
        if schema.keys() - _NOTES - {"enum", "const", "type"}:
            raise self._refuse(path, "keywords beside enum and const are not supported")
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        if any(isinstance(value, (dict, list)) for value in values):
            raise self._refuse(path, "lists and objects in enum and const are not supported")
        kinds = schema.get("type")
        wanted = [kinds] if isinstance(kinds, str) else kinds
        kept = [value for value in values if wanted is None or any(is_of(value, kind) for kind in wanted)]
        if not kept:
            raise self._refuse(path, "enum has no value of its type")
        return Node("enum", values=kept)

    def _typed(self, schema: dict[str, Any], path: str) -> Node:
        kind: Any = schema.get("type") or next((kind for kind, keys in _OF.items() if keys & schema.keys()), None)
        if isinstance(kind, list):
            return Node("union", parts=[self._typed({key: item for key, item in schema.items() if key == "type" or any(
                key in _OF[other] for other in (one, "number" if one == "integer" else one))} | {"type": one}, path)
                for one in kind])
        if kind not in _OF:
            raise self._refuse(path, "the type of each value is needed")
        unknown = schema.keys() - _NOTES - {"type"} - _OF[kind]
        if unknown & {"patternProperties", "allOf"}:
            raise self._refuse(path, f"{', '.join(sorted(unknown))} is not supported")
        if kind == "object":
            return self._object(schema, path)
        if kind == "array":
            return self._array(schema, path)
        if kind == "string":
            return self._string(schema, path)
        made: Kind = kind
        limits = {key: schema[key] for key in _NUMBERS if key in schema}
        return Node(made, rule=json_rule({"type": kind, **limits}), free=kind == "number" and not limits)

    def _object(self, schema: dict[str, Any], path: str) -> Node:
        required = schema.get("required", [])
        missing = next((name for name in required if name not in schema.get("properties", {})), None)
        if missing is not None:
            raise self._refuse(path, f"{missing[:60]!a} is required, but no listed property, which is not supported")
        if "minProperties" in schema or "maxProperties" in schema:
            raise self._refuse(path, "minProperties and maxProperties are not supported")
        return Node("object", properties=[
            (name, self._node(item, f"{path}.properties.{name[:60]}"), name in required)
            for name, item in schema.get("properties", {}).items() if item is not False])

    def _array(self, schema: dict[str, Any], path: str) -> Node:
        first = [self._node(item, f"{path}.prefixItems[{index}]")
                 for index, item in enumerate(schema.get("prefixItems", []))]
        rest, least, most = schema.get("items"), schema.get("minItems", 0), schema.get("maxItems")
        if max(least, most or 0) > MAX_ITEMS:
            raise self._refuse(path, f"more than {MAX_ITEMS} items are not supported")
        items = None if rest is None or rest is False else self._node(rest, f"{path}.items")
        if items is None and not first and most != 0:
            raise self._refuse(path, "items is needed")
        if first and not 0 < len(first) <= (most if most is not None else len(first)):
            raise self._refuse(path, "maxItems below the length of prefixItems is not supported")
        if items is None and least > len(first):
            raise self._refuse(path, "more items than prefixItems has are not supported")
        return Node("array", first=first, items=items, least=least, most=most)

    def _string(self, schema: dict[str, Any], path: str) -> Node:
        patterns: list[str] = []
        more = schema.get("allOf", [])
        if any(item.keys() != {"pattern"} for item in more):
            raise self._refuse(path, "allOf is not supported")
        for pattern in [item["pattern"] for item in (schema, *more) if "pattern" in item]:
            full = full_match(pattern)
            if full is None:
                raise self._refuse(path, "patterns with ^ or $ in their middle are not supported")
            patterns.append(full)
        return Node("string", patterns=patterns, least=schema.get("minLength", 0), most=schema.get("maxLength"))


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type of JSON Schema."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    kinds: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "array": (list,), "object": (dict,)}
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, kinds.get(kind, ()))


def full_match(pattern: str) -> str | None:
    """A pattern that is found anywhere in a text as one of the whole text; None where its anchors do not allow that."""
    start, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[start:len(pattern) - end]
    depth, in_set, at = 0, False, 0
    while at < len(inner):
        char = inner[at]
        if char == "\\":
            at += 1
        elif in_set:
            in_set = char != "]"
        elif char == "[":
            in_set = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char in "^$" or (char == "|" and not depth and (start or end)):
            return None
        at += 1
    any_text = r"(?:.|\n)*"
    return f"{'' if start else any_text}(?:{inner}){'' if end else any_text}"


class Rules:
    """Rules and terminals of a grammar as they are written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names: dict[Any, str] = {}
        self._count = 0

    def named(self, key: Any) -> str | None:
        return self._names.get(key)

    def begin(self, key: Any, prefix: str) -> str:
        """A new name for what `key` stands for, before its rule is known: rules may refer to themselves."""
        self._count += 1
        self._names[key] = f"{prefix}{self._count}"
        return self._names[key]

    def write(self, name: str, body: str) -> None:
        self.lines.append(f"{name}: {body}")


def between_slashes(pattern: str) -> str:
    """A pattern as Lark writes it."""
    made, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            made.append(pattern[at:at + 2])
            at += 1
        else:
            made.append({"/": r"\/", "\n": r"\n", "\r": r"\r"}.get(char, char))
        at += 1
    return f"/{''.join(made)}/"


def times(least: int, most: int | None) -> str:
    """How often, as both regular expressions and Lark write it."""
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return f"{{{least},{most}}}"
