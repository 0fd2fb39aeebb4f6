"""Tokens with weights, in the portions that a text encoder reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """Token ids without begin and end, and the weight of each."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def weighted(self) -> bool:
        return any(weight != 1.0 for weight in self.weights)


def chunked(pieces: Iterable[tuple[Sequence[int], float] | None], size: int) -> list[Chunk]:
    """Chunks of at most `size` tokens, one at least.

    Args:
        pieces: tokens and their common weight; None where a new chunk has to begin, even if that leaves one empty.
            Negative tokens are those of one embedding, which stays together where it fits into a chunk.
    """
    chunks: list[Chunk] = []
    tokens: list[int] = []
    weights: list[float] = []

    def end() -> None:
        chunks.append(Chunk(tuple(tokens), tuple(weights)))
        tokens.clear()
        weights.clear()

    for piece in pieces:
        if piece is None:
            end()
            continue
        together = bool(piece[0]) and piece[0][0] < 0 and len(piece[0]) <= size
        if together and len(tokens) + len(piece[0]) > size:
            end()
        for token in piece[0]:
            if len(tokens) == size:
                end()
            tokens.append(token)
            weights.append(piece[1])
    if tokens or not chunks:
        end()
    return chunks
