"""Answers in YAML by a JSON schema: a grammar of block style, and a reader that gives back the value.

Objects are a line for each property, in the schema's order; lists a line for each item; what is inside is indented by
two. Texts are in double quotes, so that no `yes` and no date is taken for something else. Values that nest without end
stop at `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

from diptych.core.errors import InvalidRequest
from diptych.text.formats_tree import Node, Rules, between_slashes, times, tree_of
from diptych.text.formats_xml import items_rule
from diptych.text.grammar import literal
from diptych.text.schema import JsonSchema

MAX_DEPTH = 12
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_SAFE = r"[^\"\\\x00-\x1f\x7f-\x9f\x{2028}\x{2029}\x{feff}\x{fffe}\x{ffff}]"
_TEXT = rf"(?:{_SAFE}|\\[nt\"\\])"
_NUMBER = r"/-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?/"


def yaml_form(value: Any, where: str) -> tuple[str, JsonSchema, Callable[[str], Any]]:
    """`(rules with form first, schema of the value, reader)`. Raises InvalidRequest for a schema outside the subset."""
    tree, schema = tree_of(value, where, "YAML")
    writer = _Writer(where)
    try:
        body = writer.document(tree)
    except _TooDeep:
        raise InvalidRequest(f"{where}: its values have to nest deeper than {MAX_DEPTH}, which is not supported for "
                             "YAML", param=where, code="unsupported_schema") from None
    writer.rules.write("form", body)
    return "\n".join(writer.rules.lines), schema, _read


class _TooDeep(Exception):
    pass


class _Writer:
    """Rules are named by what they are of and how deep they stand."""

    def __init__(self, where: str) -> None:
        self.rules, self._where = Rules(), where

    def document(self, node: Node) -> str:
        return " | ".join(f"{block}" for block in self._forms(node, 0, root=True))

    def _value(self, node: Node, depth: int) -> str:
        """What stands behind `key:` or `-`, with the line's end, as a rule."""
        key = (id(node), depth)
        known = self.rules.named(key)
        if known is None:
            if depth > MAX_DEPTH:
                raise _TooDeep
            known = self.rules.begin(key, "value")
            self.rules.write(known, " | ".join(self._forms(node, depth, root=False)))
        return known

    def _forms(self, node: Node, depth: int, root: bool) -> list[str]:
        gap, line = ("", "") if root else (" ", literal("\n"))
        if node.kind == "union":
            made: list[str] = []
            for part in node.parts:
                try:
                    made += self._forms(part, depth, root)
                except _TooDeep:
                    continue
            if not made:
                raise _TooDeep
            return made
        if node.kind == "object":
            lines = self._lines(node, depth)
            empty = not any(required for _, _, required in node.properties)
            return [*([f"{line} {lines}"] if lines else []), *([literal(f"{gap}{{}}\n")] if empty else [])]
        if node.kind == "array":
            return self._list(node, depth, gap, line)
        return [f"{literal(gap)} {self._scalar(node)} {literal(chr(10))}"]

    def _lines(self, node: Node, depth: int) -> str:
        """At least one property. Those that would nest too deep are left out where they may be."""
        rules: list[tuple[str, bool]] = []
        for name, item, required in node.properties:
            try:
                value = self._value(item, depth + 1)
            except _TooDeep:
                if required:
                    raise
                continue
            rules.append((f"{literal('  ' * depth + _key(name) + ':')} {value}", required))
        whole = [body if required else f"({body})?" for body, required in rules]
        if any(required for _, required in rules):
            return " ".join(whole)
        return "(" + " | ".join(" ".join([rules[index][0], *whole[index + 1:]]) for index in range(len(rules))) + ")" \
            if rules else ""

    def _list(self, node: Node, depth: int, gap: str, line: str) -> list[str]:
        made = []
        dash = literal("  " * depth + "-")
        try:
            first = [f"({dash} {self._value(item, depth + 1)})" for item in node.first]
            rest = f"({dash} {self._value(node.items, depth + 1)})" if node.items else None
            if node.most != 0:
                wanted = Node("array", least=max(1, node.least), most=node.most)
                made.append(f"{line} {items_rule(first, rest, wanted)}")
        except _TooDeep:
            if node.least:
                raise
        return [*made, *([literal(f"{gap}[]\n")] if not node.least else [])]

    def _scalar(self, node: Node) -> str:
        if node.kind == "null":
            return '"null"'
        if node.kind == "enum":
            return "(" + " | ".join(literal(_written(value, self._where)) for value in node.values) + ")"
        if node.kind == "string":
            key = ("text", id(node))
            known = self.rules.named(key)
            if known is None:
                known = self.rules.begin(key, "TEXT")
                self.rules.write(known, _text(node))
            return known
        return _NUMBER if node.free else node.rule


def _text(node: Node) -> str:
    """A text in quotes as a terminal. Held to a pattern it has no characters that need escaping."""
    quote = literal('"')
    if not node.patterns:
        return f"{quote} {between_slashes(_TEXT + times(node.least, node.most))} {quote}"
    whole = [between_slashes(pattern) for pattern in node.patterns]
    return f"{quote} ({' & '.join([*whole, between_slashes(_SAFE + times(node.least, node.most))])}) {quote}"


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _RESERVED else json.dumps(name)


def _written(value: Any, where: str) -> str:
    """A value of an enum; as JSON, which YAML reads too."""
    told = json.dumps(value)
    if yaml.safe_load(told) != value:
        raise InvalidRequest(f"{where}: {value!a} cannot be written in YAML", param=where, code="unsupported_schema")
    return told


def _read(text: str) -> Any:
    """The value of a document. Raises ValueError."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is no YAML ({str(error)[:200]})") from None
