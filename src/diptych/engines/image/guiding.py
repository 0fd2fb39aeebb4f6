"""One step of the lanes of one group: their rows through the UNet in one pass, and what guidance makes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from diptych.core.size_hints import SizeHints
from diptych.engines.image.adapters.layers import Chosen
from diptych.engines.image.control.rows import controlled, rows_of
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import ImageModel, Pass
from diptych.engines.image.passes import PassMemory


def size_of(lane: Lane) -> tuple[int, int]:
    """Width and height in pixels."""
    _, _, height, width = lane.latents.shape
    return width * lane.model.scale_factor, height * lane.model.scale_factor


class Predictor:
    """Guided predictions of lanes. Measures what its passes take of the memory."""

    def __init__(self, memory: PassMemory) -> None:
        self._memory = memory

    def __call__(self, lanes: Sequence[Lane]) -> list[torch.Tensor]:
        """Predictions (1, C, h, w) of all lanes, which are of one group, from one UNet pass over all their rows."""
        began = time.monotonic()
        model = lanes[0].model
        made, counts = _assembled(model, lanes)
        width, height = size_of(lanes[0])
        with self._memory.measured(f"{width}x{height}x{len(lanes)}"):
            made = controlled(made, rows_of(lanes, counts), (width, height), most=2 * len(lanes))
            rows = _predicted(model, made, most=2 * len(lanes))
        parts = torch.split(rows, counts)
        seconds = (time.monotonic() - began) / len(made)
        for lane, count in zip(lanes, counts, strict=True):
            lane.run.unet_seconds += seconds * count
        return [_guided(lane, part) for lane, part in zip(lanes, parts, strict=True)]


def _assembled(model: ImageModel, lanes: Sequence[Lane]) -> tuple[Pass, list[int]]:
    """The pass of these lanes, and how many rows each has: the negative condition first, where there is guidance."""
    counts = [len(lane.contexts.positive) + lane.guided for lane in lanes]
    latents, times, scales = [], [], []
    for lane, count in zip(lanes, counts, strict=True):
        latents += [lane.sampler.scale(lane.latents)] * count
        times += [lane.sampler.timestep] * count
        scales += [lane.stage.spec.guidance] * count
    contexts = [part for lane in lanes for part in (
        [lane.contexts.negative, lane.contexts.positive] if lane.guided else [lane.contexts.positive])]
    pooled, ids = _told(model, lanes)
    extra = [lane.extra for lane, count in zip(lanes, counts, strict=True) if lane.extra is not None
             for _ in range(count)]
    return Pass(
        torch.cat(latents), torch.tensor(times, device=model.device), torch.cat(contexts),
        torch.tensor(scales, device=model.device), adapters=_adapters(lanes, counts),
        extra=torch.cat(extra) if extra else None,
        pooled=pooled, time_ids=ids), counts


def _told(model: ImageModel, lanes: Sequence[Lane]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What Stable Diffusion XL's UNet is told beside the contexts, (rows, width) and (rows, numbers)."""
    pooled: list[torch.Tensor] = []
    ids: list[torch.Tensor] = []
    for lane in lanes:
        contexts = lane.contexts
        told = model.time_ids(contexts, lane.stage.spec.size_hints or SizeHints(), *size_of(lane))
        if told is None or contexts.pooled is None or contexts.negative_pooled is None:
            return None, None
        pooled += [contexts.negative_pooled, contexts.pooled] if lane.guided else [contexts.pooled]
        ids.append(told if lane.guided else told[1:])
    return torch.cat(pooled), torch.cat(ids)


def _adapters(lanes: Sequence[Lane], counts: Sequence[int]) -> tuple[Chosen, ...]:
    """Of each row; empty where no lane has any."""
    if not any(lane.adapters for lane in lanes):
        return ()
    return tuple(lane.adapters for lane, count in zip(lanes, counts, strict=True) for _ in range(count))


def _predicted(model: ImageModel, made: Pass, most: int) -> torch.Tensor:
    """The UNet over all rows, `most` in one pass: memory was promised for two of each picture."""
    if len(made) <= most:
        return model.predict(made)
    return torch.cat([model.predict(made.rows(start, start + most)) for start in range(0, len(made), most)])


def _guided(lane: Lane, rows: torch.Tensor) -> torch.Tensor:
    """One prediction (1, C, h, w) of a lane's rows: each condition leads from the negative one by its weight."""
    if len(rows) == 1:
        return rows
    spec, weights = lane.stage.spec, lane.contexts.weights
    base = prediction = rows[:1]
    for place, weight in enumerate(weights, 1):
        prediction = prediction + spec.guidance * weight * (rows[place:place + 1] - base)
    if rescale := spec.guidance_rescale:
        plain = base
        for place, weight in enumerate(weights, 1):
            plain = plain + weight * (rows[place:place + 1] - base)
        # Lin et al. 2023 (https://arxiv.org/abs/2305.08891), section 3.4.
        prediction = prediction * (1 - rescale + rescale * plain.std() / prediction.std())
    return prediction
