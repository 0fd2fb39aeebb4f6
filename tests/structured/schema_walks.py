"""Random texts that a grammar allows, made byte by byte without a model, and the collections of schemas."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llguidance

from diptych.text.grammar import END, byte_tokenizer, limits

DATA = Path(__file__).parent / "data"
_CLOSING = frozenset(b'"}]')


def collection(name: str) -> Iterator[dict[str, Any]]:
    """Entries of `data/{name}.jsonl.xz`."""
    with lzma.open(DATA / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def walk(grammar: str, seed: int, soft: int = 300, hard: int = 3000) -> str | None:
    """A text that the grammar allows, or None when none had ended after `hard` bytes. After `soft` bytes it is brought
    to its end: what closes something is taken wherever it is allowed."""
    drawn = random.Random(seed)
    matcher = llguidance.LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=limits())
    made = bytearray()
    while len(made) < hard:
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(END + 1) if mask[token >> 3] >> (token & 7) & 1]
        if not allowed:
            return made.decode() if matcher.is_accepting() else None
        if END in allowed and (len(allowed) == 1 or drawn.random() < 0.4 or len(made) > soft):
            return made.decode()
        closing = [token for token in allowed if token in _CLOSING]
        eager = 1.0 if len(made) > soft else 0.3
        token = drawn.choice(closing if closing and drawn.random() < eager else [one for one in allowed if one != END])
        made.append(token)
        if not matcher.consume_token(token):
            raise AssertionError(matcher.get_error())
    return None
