"""Answers in XML by a JSON schema: a grammar, and a reader that gives back the value that the schema is about.

Objects are elements with an element for each property, in the schema's order; lists are elements with `<item>`s; texts,
numbers and booleans are the element's text; null is `<name/>`. The outermost element is called as the schema's `title`
says, where that is a name, or `root`. There are no attributes, and no white space between elements.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from diptych.core.errors import InvalidRequest
from diptych.text.formats_json import parse_json
from diptych.text.formats_tree import Node, Rules, between_slashes, times, tree_of
from diptych.text.grammar import literal
from diptych.text.schema import JsonSchema

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SAFE = r"[^<>&\x00-\x08\x0b-\x1f\x7f-\x9f\x{fffe}\x{ffff}]"
_TEXT = f"(?:{_SAFE}|&lt;|&gt;|&amp;)"


def xml_form(value: Any, where: str) -> tuple[str, JsonSchema, Callable[[str], Any]]:
    """`(rules with form first, schema of the value, reader)`. Raises InvalidRequest for a schema outside the subset."""
    tree, schema = tree_of(value, where, "XML")
    title = value.get("title") if isinstance(value, dict) else None
    root = title if isinstance(title, str) and NAME.fullmatch(title) else "root"
    writer = _Writer(where)
    writer.rules.write("form", writer.element(root, tree))
    return "\n".join(writer.rules.lines), schema, lambda text: _read(text, root, tree)


class _Writer:
    def __init__(self, where: str) -> None:
        self.rules, self._where = Rules(), where

    def element(self, name: str, node: Node) -> str:
        """The name of the rule of an element."""
        key = (name, id(node))
        known = self.rules.named(key)
        if known is not None:
            return known
        if not NAME.fullmatch(name):
            raise InvalidRequest(f"{self._where}: {name[:60]!a} is no name of an XML element", param=self._where,
                                 code="unsupported_schema")
        if node.kind == "string":
            terminal = self.rules.begin(key, "TEXT")
            self.rules.write(terminal, f"{literal(f'<{name}>')} {_text(node)} {literal(f'</{name}>')}")
            return terminal
        rule = self.rules.begin(key, "element")
        self.rules.write(rule, self._body(name, node))
        return rule

    def _body(self, name: str, node: Node) -> str:
        if node.kind == "union":
            return " | ".join(self.element(name, part) for part in self._told_apart(node))
        if node.kind == "null":
            return literal(f"<{name}/>")
        if node.kind == "enum":
            return " | ".join(literal(f"<{name}/>" if value is None else f"<{name}>{_written(value)}</{name}>")
                              for value in node.values)
        return f"{literal(f'<{name}>')} {self._content(node)} {literal(f'</{name}>')}"

    def _content(self, node: Node) -> str:
        if node.kind == "object":
            return " ".join(f"{self.element(name, item)}{'' if required else '?'}"
                            for name, item, required in node.properties)
        if node.kind == "array":
            return items_rule([self.element("item", item) for item in node.first],
                          self.element("item", node.items) if node.items else None, node)
        return node.rule

    def _told_apart(self, node: Node) -> list[Node]:
        """Alternatives are told apart by what the element holds: nothing, elements, or text of one kind."""
        parts = [part for one in node.parts for part in (self._told_apart(one) if one.kind == "union" else [one])]
        texts = [part for part in parts if part.kind not in ("null", "object", "array")]
        inner = [part for part in parts if part.kind in ("object", "array")]
        plain = {("string" if all(isinstance(value, str) for value in part.values) else "other")
                 if part.kind == "enum" else part.kind for part in texts}
        if len(inner) > 1 or (inner and texts) or (len(plain) > 1 and "string" in plain):
            raise InvalidRequest(
                f"{self._where}: alternatives have to be told apart in XML: null beside one other kind of value, or "
                "numbers and booleans", param=self._where, code="unsupported_schema")
        return parts


def _text(node: Node) -> str:
    """A text of this kind as (a part of) a terminal. Held to a pattern it has no characters that need escaping."""
    if not node.patterns:
        return between_slashes(f"(?:{_TEXT}){times(node.least, node.most)}")
    whole = [between_slashes(pattern) for pattern in node.patterns]
    return f"({' & '.join([*whole, between_slashes(_SAFE + times(node.least, node.most))])})"


def items_rule(first: list[str], rest: str | None, node: Node) -> str:
    """Lark for a list: the first ones, of which those above the least may be missing, and the rest."""
    most = None if node.most is None else max(0, node.most - len(first))
    made = "" if rest is None or most == 0 else f"{rest}{times(max(0, node.least - len(first)), most)}"
    for index in range(len(first) - 1, -1, -1):
        made = f"{first[index]} {made}" if index < node.least else f"({first[index]} {made})?"
    return made


def _written(value: Any) -> str:
    return escape(value) if isinstance(value, str) else json.dumps(value)


def _read(text: str, root: str, tree: Node) -> Any:
    """The value of a document. Raises ValueError."""
    if "<!" in text or "<?" in text:
        raise ValueError("declarations are not part of the document")
    try:
        element = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML ({error})") from None
    if element.tag != root:
        raise ValueError(f"the outermost element is not {root}")
    return _Reading(text).value(element, tree)


class _Reading:
    """ElementTree does not tell `<a/>` from `<a></a>`: the empty elements are counted in the text, in their order."""

    def __init__(self, text: str) -> None:
        self._closed = iter([found[0].endswith("/>") for found in re.finditer(r"<[A-Za-z_][^<>]*>", text)])

    def value(self, element: ElementTree.Element, node: Node) -> Any:
        return self._of(element, node, next(self._closed, False))

    def _of(self, element: ElementTree.Element, node: Node, closed: bool) -> Any:
        if node.kind == "union":
            return self._of(element, self._meant(element, node, closed), closed)
        text = element.text or ""
        if closed:
            return None
        if node.kind == "object":
            kinds = {name: item for name, item, _ in node.properties}
            made: dict[str, Any] = {}
            for child in element:
                if child.tag not in kinds or child.tag in made:
                    raise ValueError(f"element {child.tag} does not belong there")
                made[child.tag] = self.value(child, kinds[child.tag])
            return made
        if node.kind == "array":
            return [self.value(child, node.first[index] if index < len(node.first) else node.items or Node("null"))
                    for index, child in enumerate(element)]
        if node.kind == "enum":
            return next((value for value in node.values if value is not None and _written(value) == escape(text)), text)
        return text if node.kind == "string" else parse_json(text)

    def _meant(self, element: ElementTree.Element, node: Node, closed: bool) -> Node:
        flat = [part for one in node.parts for part in ([one] if one.kind != "union" else one.parts)]
        if closed:
            return Node("null")
        inner = next((part for part in flat if part.kind in ("object", "array")), None)
        if inner is not None:
            return inner
        texts = [part for part in flat if part.kind != "null"]
        told = escape(element.text or "")
        enum = next((part for part in texts if part.kind == "enum" and told in [
            _written(value) for value in part.values if value is not None]), None)
        return enum or next((part for part in texts if part.kind != "enum"), texts[0])
