"""CLIP's tokenizer, of which every Stable Diffusion checkpoint is made without carrying it along."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Any

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END, length: int = 77) -> Any:
    """The tokenizer with CLIP's 49,408 tokens (Radford et al. 2021): all bytes, all bytes at the end of a word, 48,894
    merges, and the two tokens around a text.

    Args:
        pad: what fills a text up: the end token for the encoder of Stable Diffusion 1, "!" for that of 2.
        length: tokens of a whole text.
    """
    packed = (resources.files(__package__) / "data" / "clip_merges.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode().split("\n")
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    return CLIPTokenizer(vocabulary, pairs, pad_token=pad, model_max_length=length)


def _letters() -> list[str]:
    """The 256 bytes as printable characters, in the order of GPT-2's table: those that are printable in Latin-1 as they
    are, then the others, as characters from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in plain] + [chr(256 + number) for number in range(256 - len(plain))]
