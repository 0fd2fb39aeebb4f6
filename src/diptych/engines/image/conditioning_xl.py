"""Prompts to what Stable Diffusion XL is conditioned on: the states of one or two text encoders side by side, and the
summary of the last one (Podell et al. 2023, https://arxiv.org/abs/2307.01952, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diptych.engines.image.adapters.names import TEXT, TEXT_2
from diptych.engines.image.conditioning import ClipEncoder, Encoded
from diptych.engines.image.model import Contexts
from diptych.engines.image.prompting import Texts


class InnerClipEncoder(ClipEncoder):
    """CLIP's states one layer before those that `clip_skip` names elsewhere, without the last norm; so 1 is the layer
    that XL was trained with."""

    @property
    def width(self) -> int:
        """Of its projection."""
        return int(self._text_encoder.config.projection_dim)

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor | None, clip_skip: int) -> Encoded:
        output = self._text_encoder(ids, attention_mask=mask, output_hidden_states=True)
        return Encoded(output.hidden_states[-(clip_skip + 1)], getattr(output, "text_embeds", None))


class DoubleEncoder:
    """The base model's two encoders, or the refiner's only one.

    Args:
        encoders: the last has a projection.
        zeros: a negative prompt without words gives zeros instead of the embeddings of no words.
    """

    def __init__(self, encoders: Sequence[InnerClipEncoder], zeros: bool) -> None:
        self._encoders = encoders
        self._zeros = zeros
        for encoder, part in zip(encoders, (TEXT, TEXT_2)[-len(encoders):], strict=True):
            encoder.part = part
        self.layers: int = min(encoder.layers for encoder in encoders) - 1
        self.pooled_width: int = encoders[-1].width

    @property
    def parts(self) -> tuple[ClipEncoder, ...]:
        return tuple(self._encoders)

    def __call__(self, texts: Texts) -> Contexts:
        """Embeddings of all texts, padded with empty chunks to the length of the longest; each text's summary is that
        of its first chunk."""
        rows = [encoder.rows(texts) for encoder in self._encoders]
        longest = max(len(chunks) for one in rows for chunks in one)
        hidden = torch.cat([encoder.embed(one, longest, texts)
                            for encoder, one in zip(self._encoders, rows, strict=True)], dim=-1)
        pooled = self._encoders[-1].pooled([chunks[0] for chunks in rows[-1]], texts)
        negative, negative_pooled = hidden[-1:], pooled[-1:]
        if self._zeros and not any((segment.text or "").strip() for segment in texts.negative):
            negative, negative_pooled = torch.zeros_like(negative), torch.zeros_like(negative_pooled)
        return Contexts(hidden[:-1], negative, texts.weights, pooled[:-1], negative_pooled)
