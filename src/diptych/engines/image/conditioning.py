"""Prompts to text embeddings with CLIP: in chunks where they are longer than its window, with weights."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diptych.engines.image.adapters.embeddings import Vectors, WordHook, divided
from diptych.engines.image.adapters.layers import AdapterLayers, Chosen
from diptych.engines.image.adapters.names import TEXT
from diptych.engines.image.chunks import Chunk, chunked
from diptych.engines.image.model import Contexts
from diptych.engines.image.prompting import Texts
from diptych.prompts.schedule import Segments

CACHED_CHUNKS = 256
NO_MEAN = 1e-6
"""A mean smaller than this part of the values' size is rounding, and is not kept."""


@dataclass(frozen=True)
class Encoded:
    """One chunk's states (1, window, features), and its summary (1, features) of an encoder with a projection."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None


class ClipEncoder:
    """CLIP's hidden states, one chunk of `model_max_length` tokens at a time, the latest ones cached.

    A text of more than `model_max_length - 2` tokens becomes several chunks, each with its own begin and end token,
    joined along the tokens. A text that fits one chunk gives what diffusers' pipelines give.

    Args:
        part: what adapters call this encoder.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, device: torch.device, part: str = TEXT) -> None:
        self.part = part
        self._words = WordHook(text_encoder)
        self._layers: AdapterLayers | None = None
        self._vectors: Vectors | None = None
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._device = device
        self._window: int = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self.layers: int = text_encoder.config.num_hidden_layers
        self._cache: OrderedDict[tuple[int, tuple[int, ...], Chosen], Encoded] = OrderedDict()

    @property
    def parts(self) -> tuple[ClipEncoder, ...]:
        """Itself, as the only text encoder."""
        return (self,)

    @property
    def model(self) -> Any:
        """The text encoder itself."""
        return self._text_encoder

    def use(self, layers: AdapterLayers, vectors: Vectors) -> None:
        """Where the adapters and embeddings are that texts name."""
        self._layers, self._vectors = layers, vectors

    def __call__(self, texts: Texts) -> Contexts:
        """Embeddings of all texts, padded with empty chunks to the length of the longest."""
        rows = self.rows(texts)
        hidden = self.embed(rows, max(len(chunks) for chunks in rows), texts)
        return Contexts(hidden[:-1], hidden[-1:], texts.weights)

    def rows(self, texts: Texts) -> list[list[Chunk]]:
        """Chunks of every condition, and of the negative prompt at the end."""
        words = dict(texts.words)
        return [self._chunks(segments, words) for segments in (*texts.positive, texts.negative)]

    def embed(self, rows: Sequence[list[Chunk]], length: int, texts: Texts) -> torch.Tensor:
        """(rows, length × window, features): all rows, padded with empty chunks to `length` of them."""
        return torch.cat([
            torch.cat([self._embed(chunk, texts) for chunk in chunks + [Chunk()] * (length - len(chunks))], dim=1)
            for chunks in rows])

    def _chunks(self, segments: Segments, words: dict[str, tuple[int, ...]]) -> list[Chunk]:
        """Chunks of tokens; one empty chunk for an empty text."""
        pieces: list[tuple[Sequence[int], float] | None] = []
        for segment in segments:
            if segment.text is None:
                pieces.append(None)
                continue
            pieces += [(self._tokens(piece) if isinstance(piece, str) else piece, segment.weight)
                       for piece in divided(segment.text, words)]
        return chunked(pieces, self._window - 2)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return ids

    def _embed(self, chunk: Chunk, texts: Texts) -> torch.Tensor:
        """(1, window, features) of one chunk, each token's multiplied by its weight."""
        hidden = self._encoded(chunk.tokens, texts).hidden
        if not chunk.weighted:
            return hidden
        ones = [1.0] * (self._window - 1 - len(chunk.weights))
        weights = torch.tensor([1.0, *chunk.weights, *ones], device=hidden.device, dtype=torch.float32)
        return emphasized(hidden, weights)

    def pooled(self, chunks: Sequence[Chunk], texts: Texts) -> torch.Tensor:
        """(rows, features): the encoder's summary of each chunk, projected. Only of encoders with a projection."""
        found = [self._encoded(chunk.tokens, texts).pooled for chunk in chunks]
        return torch.cat([one for one in found if one is not None])

    def _encoded(self, tokens: tuple[int, ...], texts: Texts) -> Encoded:
        key = (texts.clip_skip, tokens, texts.adapters)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        used = [self._tokenizer.bos_token_id, *(max(0, token) for token in tokens), self._tokenizer.eos_token_id]
        padding = self._window - len(used)
        ids = torch.tensor([used + [self._tokenizer.pad_token_id] * padding], device=self._device)
        mask = None
        if getattr(self._text_encoder.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * len(used) + [0] * padding], device=self._device)
        with contextlib.ExitStack() as using:
            if self._layers is not None and self._vectors is not None:
                using.enter_context(self._layers.using(self.part, [texts.adapters]))
                self._words.places = {place + 1: one for place, one in self._vectors.of(self.part, tokens).items()}
            encoded = self._cache[key] = self._encode(ids, mask, texts.clip_skip)
        if len(self._cache) > CACHED_CHUNKS:
            self._cache.popitem(last=False)
        return encoded

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor | None, clip_skip: int) -> Encoded:
        if clip_skip == 1:
            return Encoded(self._text_encoder(ids, attention_mask=mask)[0])
        states = self._text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        # An inner layer's states reach the UNet through the norm that follows the last one.
        norm = getattr(self._text_encoder, "text_model", self._text_encoder).final_layer_norm
        return Encoded(norm(states[-clip_skip]))


def emphasized(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Token embeddings (1, tokens, features) times `weights` (tokens,), then scaled so that their mean over all tokens
    and features is what it was; where the mean is nothing but rounding, without that."""
    values = hidden.float()
    weighted = values * weights[None, :, None]
    before, after = values.mean(), weighted.mean()
    size = weighted.abs().mean()
    if bool(after.abs() > NO_MEAN * size) and bool(before.abs() > NO_MEAN * values.abs().mean()):
        weighted = weighted * (before / after)
    return weighted.to(hidden.dtype)
