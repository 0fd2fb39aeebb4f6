"""Texts in pieces that fit a model's prompt, with their place in the text."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.errors import Unavailable


@dataclass(frozen=True)
class Chunk:
    """`text` begins at character `start` of its source."""

    start: int
    text: str


def split(text: str, characters: int, overlap: int = 0, *, markdown: bool = False) -> list[Chunk]:
    """Pieces of at most `characters` characters, cut where the text has its largest breaks: headings and lists of
    Markdown, paragraphs, sentences, words. Pieces share at most `overlap` characters. White space between them belongs
    to none. Raises Unavailable where the library for it is not installed."""
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError:
        raise Unavailable("texts cannot be split here: install diptych[text]", code="not_installed") from None
    kind = MarkdownSplitter if markdown else TextSplitter
    return [Chunk(start, piece) for start, piece in kind(characters, overlap=overlap).chunk_indices(text)]
