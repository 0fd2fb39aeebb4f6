"""The form of an answer: the grammar that holds the model to it, and the check of what was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.core.chat import OutputFormat
from diptych.core.errors import InvalidRequest
from diptych.text.formats_json import json_fault
from diptych.text.grammar import allows, check, literal
from diptych.text.schema import JsonSchema, compile_schema

MAX_CHOICES = 10_000
_LARK_START = re.compile(r"(?m)^\s*start\s*(\[[^\]]*\])?\s*:")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


@dataclass(frozen=True)
class Form:
    """`grammar` is whole; `rules` are its rules with `form` as the first, for grammars that offer calls beside it
    (None where it cannot be a part). `unheld` names what the grammar does not enforce. `fault` tells what is wrong with
    a finished answer, None for a valid one; it never raises."""

    grammar: str
    rules: str | None
    unheld: tuple[str, ...]
    fault: Callable[[str], str | None]


def form_of(asked: OutputFormat) -> Form:
    """Raises InvalidRequest, which names the field, for what cannot be held."""
    makers: dict[str, Callable[[Any, str], Form]] = {
        "json_object": lambda value, where: _json({"type": "object"}, where),
        "json_schema": _json, "regex": _regex, "choice": _choice, "lark": _lark, "gbnf": _gbnf,
        "xml": _xml, "yaml": _yaml}
    try:
        return makers[asked.kind](asked.value, asked.field)
    except RecursionError:
        raise InvalidRequest(f"{asked.field} refers to itself without end", param=asked.field,
                             code="unsupported_schema") from None


def _xml(value: Any, where: str) -> Form:
    from diptych.text.formats_xml import xml_form  # its parser is needed by few, and is long in the loading

    return _document(*xml_form(value, where), where)


def _yaml(value: Any, where: str) -> Form:
    from diptych.text.formats_yaml import yaml_form

    return _document(*yaml_form(value, where), where)


def _whole(rules: str) -> str:
    return f"start: form\n{rules}"


def _json(value: Any, where: str) -> Form:
    schema = compile_schema(value, where)
    rules = f"form: {schema.rule}"
    return Form(_whole(rules), rules, schema.unheld, lambda text: json_fault(text, schema))


def _document(rules: str, schema: JsonSchema, read: Callable[[str], Any], where: str) -> Form:
    """XML or YAML: `read` gives the value that the schema is about, and raises ValueError."""
    check(_whole(rules), where)

    def fault(text: str) -> str | None:
        try:
            return schema.fault(read(text))
        except ValueError as error:
            return str(error)[:300]

    return Form(_whole(rules), rules, schema.unheld, fault)


def _regex(value: Any, where: str) -> Form:
    pattern = _text(value, where)
    inner = pattern.removeprefix("^")
    if inner.endswith("$") and not inner.endswith("\\$"):
        inner = inner[:-1]
    if not inner:
        raise InvalidRequest(f"{where}: the pattern {pattern!a} allows no text but the empty one", param=where)
    rules = f"form: /{_slashed(inner)}/"
    grammar = check(_whole(rules), where)
    return Form(grammar, rules, (), lambda text: None if allows(grammar, text) else "it does not match the pattern")


def _slashed(pattern: str) -> str:
    """A pattern between slashes on one line."""
    parts = re.findall(r"\\.|[^\\]|\\$", pattern, re.DOTALL)
    named = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n"}
    return "".join(named.get(part, part) for part in parts)


def _choice(value: Any, where: str) -> Form:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InvalidRequest(f"{where} must be a list of texts that is not empty", param=where)
    if len(value) > MAX_CHOICES:
        raise InvalidRequest(f"{where} has {len(value)} texts, at most {MAX_CHOICES} are taken", param=where)
    for index, item in enumerate(value):
        if not isinstance(item, str) or not item:
            raise InvalidRequest(f"{where}[{index}] must be text that is not empty", param=f"{where}[{index}]")
    texts = frozenset(value)
    rules = "form: " + " | ".join(literal(text) for text in dict.fromkeys(value))
    return Form(check(_whole(rules), where), rules, (),
                lambda text: None if text in texts else "it is none of the choices")


def _lark(value: Any, where: str) -> Form:
    """Left as it is; what it allows is all that is known of its meaning (it may limit tokens, which no check can)."""
    grammar = _text(value, where)
    if not _LARK_START.search(grammar):
        raise InvalidRequest(f"{where}: the grammar has no rule `start`", param=where, code="invalid_grammar")
    return Form(check(grammar, where), None, (), lambda text: None)


def _gbnf(value: Any, where: str) -> Form:
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    text = _text(value, where)
    try:
        grammar = any_to_lark(_ESCAPE.sub(_character, text))
    except (GbnfToLarkError, RecursionError, Exception) as error:  # it raises bare Exception for unknown rules
        raise InvalidRequest(f"{where}: the grammar is no valid GBNF: {str(error)[:300] or 'it nests too deeply'}",
                             param=where, code="invalid_grammar") from None
    if _LARK_START.search(text):
        return _lark(text, where)
    check(grammar, where)
    return Form(grammar, None, (), lambda text: None if allows(grammar, text) else "the grammar does not allow it")


def _character(found: re.Match[str]) -> str:
    """Code points as characters: not all forms of them are known further on."""
    code = found[1] or found[2]
    if code is None:
        return found[0]
    number = int(code, 16)
    if number > 0x10FFFF or 0xD800 <= number < 0xE000:
        return found[0]
    char = chr(number)
    if number < 0x20 or number == 0x7F:
        return f"\\x{number:02x}"
    return f"\\{char}" if char in '"\\[]' else char


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{where} must be text that is not empty", param=where)
    return value
