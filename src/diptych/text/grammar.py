"""Grammars for the engine, in llguidance's Lark, compiled here first: a bad one costs no token."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from diptych.core.errors import InvalidRequest

END = 256
"""Token of `byte_tokenizer` that ends a text; those before it are the bytes."""
MAX_GRAMMAR = 1_000_000
"""Characters."""
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as most text that models have read is written. Free white space is what endless answers are made of."""
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")


class _Bytes:
    """The vocabulary in the form that llguidance asks for."""

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<|end|>"]
        self.special_token_ids = [END]
        self.bos_token_id = None
        self.eos_token_id = END

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def byte_tokenizer() -> Any:
    """A vocabulary of the 256 bytes and an end: what a grammar allows does not depend on the model's own."""
    import llguidance

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=END + 1)


def limits() -> Any:
    """What the work on one grammar is held to, so that no request keeps the server busy."""
    import llguidance

    return llguidance.LLParserLimits(verbose_errors=False)


def fault_of(grammar: str) -> str | None:
    """Why `grammar` is not valid, on one line; None where it is. Takes milliseconds, without Python's lock."""
    import llguidance

    if len(grammar) > MAX_GRAMMAR:
        return f"it has {len(grammar)} characters, at most {MAX_GRAMMAR} are taken"
    matcher = llguidance.LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=limits())
    return told(matcher.get_error()) if matcher.is_error() else None


def check(grammar: str, param: str) -> str:
    """`grammar` itself. Raises InvalidRequest, which names `param`, for one that is not valid."""
    fault = fault_of(grammar)
    if fault is not None:
        raise InvalidRequest(f"{param}: the grammar is not valid: {fault}", param=param, code="invalid_grammar")
    return grammar


def told(message: str) -> str:
    """llguidance's words without its own copy of the grammar."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    first = _PLACE.sub("", lines[0]) if lines else "no reason is given"
    reason = next((line for line in lines if line.startswith("error:")), "")
    return f"{first} {reason}".strip()[:400]


def allows(grammar: str, text: str | bytes) -> bool:
    """Whether `grammar` allows exactly this text."""
    import llguidance

    matcher = llguidance.LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=limits())
    raw = text.encode() if isinstance(text, str) else text
    return bool(not matcher.is_error() and matcher.try_consume_tokens(list(raw)) == len(raw)
                and matcher.is_accepting())


def literal(text: str) -> str:
    """`text` as a literal of Lark; nothing at all for an empty one."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else ""


def json_rule(schema: Any) -> str:
    """The body of a rule: a JSON value of this schema (already in the form that `text/schema.py` makes)."""
    held = {**schema, "x-guidance": {**SPACING, **schema.get("x-guidance", {})}} if isinstance(schema, dict) else \
        {"x-guidance": SPACING} if schema else schema
    return "%json " + json.dumps(held, ensure_ascii=True).replace("<[", r"\u003c[")  # no control token
