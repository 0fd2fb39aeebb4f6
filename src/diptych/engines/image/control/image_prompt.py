"""What rows of a UNet pass are shown of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class PromptLayers(Protocol):
    """An IP-Adapter, as the UNet's attentions see it."""

    def layer(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of keys and of values, (inner, features), of the attention of this name."""
        ...


@dataclass(frozen=True)
class ImagePrompt:
    """Image tokens of one IP-Adapter, (rows, tokens, features), and how much they count in each row, (rows,)."""

    adapter: PromptLayers
    tokens: torch.Tensor
    scales: torch.Tensor

    def __getitem__(self, rows: slice) -> ImagePrompt:
        """Only these rows."""
        return ImagePrompt(self.adapter, self.tokens[rows], self.scales[rows])
