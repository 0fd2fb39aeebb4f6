"""Forward passes of one model with a KV cache for each request; requests that each add a token share a pass."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from diptych.engines.transformers.lora import Adapters, Weights

Values = np.ndarray[Any, np.dtype[np.float32]]


class State:
    """What the model has read of one request: `tokens`, and the cache of their keys and values."""

    def __init__(self, model: Any, weights: Weights) -> None:
        self.cache = DynamicCache(config=model.config)
        self.tokens: list[int] = []
        self.weights = weights
        self.pictures = False
        self.broken = False

    @property
    def plain(self) -> bool:
        """Whether every layer keeps all keys, so that states can be cut and share a pass."""
        return bool(self.cache.layers) and all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens; only for a `plain` state."""
        del self.tokens[length:]
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


@dataclass(frozen=True)
class Step:
    """Tokens to read next. The answer to it is the logits after the last of them, or after each with `all`.

    `pictures` is what the vision tower takes: a list of (3, height, width) arrays, for a first step only.
    """

    state: State
    tokens: tuple[int, ...]
    all: bool = False
    pictures: tuple[Values, ...] = field(default=())


class Stepper:
    """Belongs to the thread that computes."""

    def __init__(self, model: Any, adapters: Adapters) -> None:
        self._model, self._adapters = model, adapters
        self._device = next(model.parameters()).device
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def run(self, steps: Sequence[Step]) -> list[Values | Exception]:
        """The answer to each step: logits, float32. Those of one token go through the model together."""
        found: list[Values | Exception | None] = [None] * len(steps)
        groups: dict[Weights, list[int]] = {}
        for place, step in enumerate(steps):
            if len(step.tokens) == 1 and not step.pictures and step.state.plain:
                groups.setdefault(step.state.weights, []).append(place)
            else:
                found[place] = self._tried([step])[0]
        for places in groups.values():
            for place, answer in zip(places, self._tried([steps[place] for place in places]), strict=True):
                found[place] = answer
        return [answer for answer in found if answer is not None]

    def _tried(self, steps: list[Step]) -> Sequence[Values | Exception]:
        try:
            self._adapters.use(steps[0].state.weights)
            answers = [self._alone(steps[0])] if len(steps) == 1 else self._together(steps)
        except Exception as error:
            for step in steps:
                step.state.broken = True  # some of its layers may have read the tokens
            return [error] * len(steps)
        for step in steps:
            step.state.tokens.extend(step.tokens)
        return answers

    @torch.inference_mode()
    def _alone(self, step: Step) -> Values:
        more: dict[str, Any] = self._pictures(step.pictures) if step.pictures else {}
        if self._keeps:
            more["logits_to_keep"] = 0 if step.all else 1
        made = self._model(input_ids=torch.tensor([step.tokens], device=self._device),
                           past_key_values=step.state.cache, use_cache=True, **more)
        logits: Values = made.logits[0].float().cpu().numpy()
        return logits if step.all else logits[-1, :]

    @torch.inference_mode()
    def _together(self, steps: list[Step]) -> list[Values]:
        lengths = [len(step.state.tokens) for step in steps]
        longest, device = max(lengths), self._device
        mask = torch.zeros(len(steps), longest + 1, dtype=torch.long, device=device)
        for row, length in enumerate(lengths):
            mask[row, longest - length:] = 1
        made = self._model(
            input_ids=torch.tensor([step.tokens for step in steps], device=device), attention_mask=mask,
            position_ids=torch.tensor([[length] for length in lengths], device=device),
            past_key_values=joined([step.state.cache for step in steps]), use_cache=True)
        logits = made.logits[:, -1].float().cpu().numpy()
        return [row[None] if step.all else row for row, step in zip(logits, steps, strict=True)]

    def _pictures(self, pictures: Sequence[Values]) -> dict[str, Any]:
        sizes = [picture.shape[1:] for picture in pictures]
        height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
        padded = [np.pad(picture, ((0, 0), (0, height - picture.shape[1]), (0, width - picture.shape[2])))
                  for picture in pictures]
        pixels = torch.from_numpy(np.stack(padded)).to(self._device, self._model.dtype)
        return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes, device=self._device)}


class _Joined(CacheLayerMixin):  # type: ignore[misc]
    """One layer of several requests' caches, as a batch that is padded on the left."""

    is_sliding = False

    def __init__(self, rows: list[DynamicLayer]) -> None:
        super().__init__()
        self._rows = rows
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("rows are initialized")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        longest = self.get_seq_length() + key_states.shape[-2]
        pairs = [row.update(key_states[at:at + 1], value_states[at:at + 1]) for at, row in enumerate(self._rows)]
        keys, values = (torch.cat([_padded(pair[side], longest) for pair in pairs]) for side in (0, 1))
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return max(int(row.get_seq_length()) for row in self._rows)

    def get_max_length(self) -> int:
        return -1


def joined(caches: Sequence[DynamicCache]) -> Cache:
    """A cache over all of `caches`: what is added goes into each of them. All layers keep all keys."""
    return Cache(layers=[_Joined(list(rows)) for rows in zip(*(cache.layers for cache in caches), strict=True)])


def _padded(values: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, 0, length - values.shape[-2], 0))
