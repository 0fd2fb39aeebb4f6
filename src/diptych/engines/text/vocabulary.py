"""The tokens of a GGUF model as bytes: what grammars and Mistral's prompts are made with."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in the GGUF specification."""
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FIRST_READ = 32 * 1024 * 1024


@dataclass(frozen=True)
class Vocabulary:
    """`tokens[id]` as written in the file, `types[id]` one of the numbers above; `model` is llama.cpp's kind of
    tokenizer ("gpt2": byte-level BPE, "llama": SentencePiece); ids of special tokens are None where there is none."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    bos: int | None
    eos: int | None
    fim: dict[str, int]

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def special(self) -> tuple[int, ...]:
        """Ids of tokens that no plain text makes."""
        return tuple(id for id, type in enumerate(self.types) if type in (UNKNOWN, CONTROL))

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens)}

    def bytes_of(self, id: int) -> bytes:
        """The text of a token; of a special one its name."""
        token, type = self.tokens[id], self.types[id]
        if type == BYTE and len(token) == 6:
            return bytes([int(token[3:5], 16)])
        if type != NORMAL:
            return token.encode()
        if self.model == "gpt2":
            return b"".join(_BYTE_OF.get(character, character.encode()) for character in token)
        return token.replace("▁", " ").encode()


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in the header of the GGUF file at `path`, which llama.cpp has already accepted.

    Raises:
        ValueError: the header has no vocabulary, or is not GGUF.
    """
    size = path.stat().st_size
    length = min(_FIRST_READ, size)
    while True:
        with path.open("rb") as file:
            data = file.read(length)
        try:
            found = _metadata(data)
            break
        except struct.error:
            if length >= size:
                raise ValueError("the header is cut short") from None
            length = min(length * 4, size)
    tokens = tuple(found.get("tokens", ()))
    if not tokens:
        raise ValueError("the header has no vocabulary")
    types = tuple(found.get("token_type", ())) or (NORMAL,) * len(tokens)
    fim = {name: found[f"fim_{name}_token_id"] for name in ("pre", "suf", "mid") if f"fim_{name}_token_id" in found}
    return Vocabulary(
        model=str(found.get("model", "")), pre=str(found.get("pre", "")), tokens=tokens, types=types,
        bos=found.get("bos_token_id"), eos=found.get("eos_token_id"), fim=fim)


def _metadata(data: bytes) -> dict[str, Any]:
    """Keys below `tokenizer.ggml.`; raises struct.error where `data` ends too early."""
    if data[:4] != b"GGUF":
        raise ValueError("not a GGUF file")
    _, _, keys = struct.unpack_from("<IQQ", data, 4)
    at, found = 24, {}
    for _ in range(keys):
        key, at = _string(data, at)
        (type,) = struct.unpack_from("<I", data, at)
        value, at = _value(data, at + 4, type)
        if key.startswith("tokenizer.ggml."):
            found[key.removeprefix("tokenizer.ggml.")] = value
    return found


def _value(data: bytes, at: int, type: int) -> tuple[Any, int]:
    if type == _STRING:
        return _string(data, at)
    if type != _ARRAY:
        code = "<" + _SCALARS[type]
        return struct.unpack_from(code, data, at)[0], at + struct.calcsize(code)
    type, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if type == _STRING:
        texts = []
        for _ in range(count):
            text, at = _string(data, at)
            texts.append(text)
        return texts, at
    code = f"<{count}{_SCALARS[type]}"
    return struct.unpack_from(code, data, at), at + struct.calcsize(code)


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error("cut")
    return data[at + 8:end].decode("utf-8", errors="replace"), end


def byte_characters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level BPE vocabulary (GPT-2's table): printable Latin-1
    characters for themselves, all other bytes for characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(0x100 + number) for number, byte in enumerate(others)}


_BYTE_OF = {character: bytes([byte]) for byte, character in byte_characters().items()}
