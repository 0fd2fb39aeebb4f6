"""Mistral's real Tekken vocabulary as the fields of a GGUF header, with the control tokens of each version."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import mistral_common
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from diptych.engines.text.vocabulary import CONTROL, NORMAL, byte_characters

SPECIAL = 1000
SIZE = 131_072
NAMES = {
    "v3": [str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS][:17],
    "v7": [str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS],
}
"""Control tokens by version of the prompt. The later ones are at the places that Mistral's published files have."""
NAMES["v11"] = [*NAMES["v7"], *(f"<SPECIAL_{id}>" for id in range(20, 32)), "[ARGS]", "[CALL_ID]"]
NAMES["v13"] = [*NAMES["v11"], "[THINK]", "[/THINK]"]
DATA = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"


def control_tokens(version: str) -> list[str]:
    """The thousand control tokens that begin the vocabulary."""
    named = NAMES[version]
    return [*named, *(f"<SPECIAL_{id}>" for id in range(len(named), SPECIAL))]


def words() -> list[bytes]:
    """The other tokens, by rank."""
    vocabulary = json.loads(DATA.read_text("utf-8"))["vocab"][:SIZE - SPECIAL]
    return [base64.b64decode(entry["token_b64"] if "token_b64" in entry else entry["token_bytes"])
            for entry in vocabulary]


def header(version: str, template: str | None = None) -> dict[str, Any]:
    """The fields below `tokenizer.` of a model with this vocabulary."""
    table = byte_characters()
    raw = words()
    spelled = ["".join(table[byte] for byte in word) for word in raw]
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": [*control_tokens(version), *spelled],
        "tokenizer.ggml.token_type": [*[CONTROL] * SPECIAL, *[NORMAL] * len(raw)],
        "tokenizer.ggml.merges": merges(raw, table),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
    if template is not None:
        fields["tokenizer.chat_template"] = template
    return fields


def merges(words: list[bytes], table: dict[int, str]) -> list[str]:
    """The merges of a vocabulary by rank: each word is made of the two words that byte-pair encoding with all lower
    ranks splits it into."""
    ranks = {word: rank for rank, word in enumerate(words)}
    found = []
    for rank, word in enumerate(words):
        if len(word) > 1:
            parts = _split(word, ranks, rank)
            if len(parts) == 2:
                found.append(" ".join("".join(table[byte] for byte in part) for part in parts))
    return found


def _split(word: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    parts = [word[at:at + 1] for at in range(len(word))]
    while len(parts) > 2:
        best = min((ranks.get(parts[at] + parts[at + 1], limit), at) for at in range(len(parts) - 1))
        if best[0] >= limit:
            break
        at = best[1]
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts
