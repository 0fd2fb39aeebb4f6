"""Prompts to text embeddings with CLIP, in chunks where they are longer than its window."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from diptych.engines.image.model import Contexts

CACHED_CHUNKS = 256


class ClipEncoder:
    """CLIP's last hidden states, one chunk of `model_max_length` tokens at a time, the latest ones cached.

    A text of more than `model_max_length - 2` tokens becomes several chunks, each with its own begin and end token,
    joined along the tokens. A text that fits one chunk gives what diffusers' pipelines give.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, device: torch.device) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._device = device
        self._window: int = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self._cache: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()

    def __call__(self, prompt: str, negative_prompt: str) -> Contexts:
        """Embeddings of both texts, padded with empty chunks to the same length."""
        pair = [self._chunks(prompt), self._chunks(negative_prompt)]
        longest = max(len(chunks) for chunks in pair)
        positive, negative = (
            torch.cat([self._embed(chunk) for chunk in chunks + [()] * (longest - len(chunks))], dim=1)
            for chunks in pair
        )
        return Contexts(positive, negative)

    def _chunks(self, text: str) -> list[tuple[int, ...]]:
        """Token ids without begin and end, split to the window; one empty chunk for an empty text."""
        ids = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        size = self._window - 2
        return [tuple(ids[start:start + size]) for start in range(0, max(len(ids), 1), size)]

    def _embed(self, chunk: tuple[int, ...]) -> torch.Tensor:
        """(1, window, features) of one chunk."""
        if chunk in self._cache:
            self._cache.move_to_end(chunk)
            return self._cache[chunk]
        used = [self._tokenizer.bos_token_id, *chunk, self._tokenizer.eos_token_id]
        padding = self._window - len(used)
        ids = torch.tensor([used + [self._tokenizer.pad_token_id] * padding], device=self._device)
        mask = None
        if getattr(self._text_encoder.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * len(used) + [0] * padding], device=self._device)
        hidden: torch.Tensor = self._text_encoder(ids, attention_mask=mask)[0]
        self._cache[chunk] = hidden
        if len(self._cache) > CACHED_CHUNKS:
            self._cache.popitem(last=False)
        return hidden
