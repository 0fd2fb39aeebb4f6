"""What the units of all lanes of a pass add to its rows. Rows without a unit get zeros, so that lanes with and without
control go through the UNet together, and none changes another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from diptych.engines.image.control.image_prompt import ImagePrompt
from diptych.engines.image.control.networks import ControlNet, T2IAdapter
from diptych.engines.image.control.prompts import IPAdapter
from diptych.engines.image.control.units import Size, Unit
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import Pass


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of a pass, which are those of one lane; the first is its negative prompt's if it is
    `guided`. `units` are those that count in this step, with their weights."""

    start: int
    stop: int
    guided: bool
    units: tuple[tuple[Unit, float], ...]

    def of(self, unit: Unit) -> list[int]:
        """The rows in which a unit counts."""
        return list(range(self.start + (self.guided and unit.prompt_only), self.stop))


@dataclass(frozen=True)
class Use:
    """One row of one network's pass: the row of the UNet's pass that it is for."""

    row: int
    unit: Unit
    weight: float


def rows_of(lanes: Sequence[Lane], counts: Sequence[int]) -> list[Rows]:
    """Of lanes with so many rows each. Units guide the run's own model, not a refiner that has taken over."""
    found, start = [], 0
    for lane, count in zip(lanes, counts, strict=True):
        sampler = lane.sampler
        step, steps = sampler.step - sampler.skip, sampler.steps - sampler.skip
        units = () if lane.model is lane.run.refine else lane.run.units
        counting = tuple((unit, weight) for unit in units if (weight := unit.weight(step, steps)))
        found.append(Rows(start, start + count, lane.guided, counting))
        start += count
    return found


def controlled(made: Pass, lanes: Sequence[Rows], size: Size, most: int) -> Pass:
    """The pass with all that its lanes' units add.

    Args:
        size: width and height of the pictures in pixels.
        most: rows that a ControlNet is given at once.
    """
    if not any(lane.units for lane in lanes):
        return made
    uses = [Use(row, unit, weight) for lane in lanes for unit, weight in lane.units for row in lane.of(unit)]
    nets = [use for use in uses if isinstance(use.unit.network, ControlNet)]
    if nets:
        made = _with_controlnets(made, nets, size, most)
    adapters = [use for use in uses if isinstance(use.unit.network, T2IAdapter)]
    if adapters:
        made = replace(made, intrablock=_intrablock(len(made), adapters, size))
    prompts = [(lane, unit, weight) for lane in lanes for unit, weight in lane.units
               if isinstance(unit.network, IPAdapter)]
    return replace(made, image_prompts=_image_prompts(len(made), prompts)) if prompts else made


def _with_controlnets(made: Pass, uses: Sequence[Use], size: Size, most: int) -> Pass:
    down: list[torch.Tensor] | None = None
    for network in dict.fromkeys(use.unit.network for use in uses):
        assert isinstance(network, ControlNet)
        own = [use for use in uses if use.unit.network is network]
        for start in range(0, len(own), most):
            part = _residuals(made, network, own[start:start + most], size)
            down = part if down is None else [before + more for before, more in zip(down, part, strict=True)]
    assert down is not None
    return replace(made, down=tuple(down[:-1]), mid=down[-1])


def _residuals(made: Pass, network: ControlNet, uses: Sequence[Use], size: Size) -> list[torch.Tensor]:
    """What one network adds to the UNet's skips and, last, to its middle, (rows, C, h, w) each: zeros in the rows that
    are not among `uses`."""
    rows = [use.row for use in uses]
    every = rows == list(range(len(made)))
    index = torch.tensor(rows, device=made.latents.device)
    hints = torch.cat([use.unit.hint(size) for use in uses])
    found = network(made if every else _picked(made, index), hints)
    layers = (*found.down, found.mid)
    scales = torch.tensor([[use.weight * share for share in use.unit.shares(len(layers))] for use in uses],
                          device=made.latents.device, dtype=made.latents.dtype)
    out = []
    for number, layer in enumerate(layers):
        scaled = layer * scales[:, number, None, None, None]
        if not every:
            # Rows may come more than once: two units of one lane can share a network.
            zeros = scaled.new_zeros((len(made), *scaled.shape[1:]))
            scaled = zeros.index_add(0, index, scaled)
        out.append(scaled)
    return out


def _picked(made: Pass, index: torch.Tensor) -> Pass:
    """These rows, as far as a ControlNet looks at them."""
    return Pass(made.latents[index], made.timesteps[index], made.contexts[index], made.guidance[index],
                pooled=None if made.pooled is None else made.pooled[index],
                time_ids=None if made.time_ids is None else made.time_ids[index])


def _intrablock(count: int, uses: Sequence[Use], size: Size) -> tuple[torch.Tensor, ...]:
    layers: list[torch.Tensor] = []
    for use in uses:
        for number, feature in enumerate(use.unit.features(size)):
            if number == len(layers):
                layers.append(feature.new_zeros((count, *feature.shape[1:])))
            layers[number][use.row] += feature[0] * use.weight
    return tuple(layers)


def _image_prompts(count: int, uses: Sequence[tuple[Rows, Unit, float]]) -> tuple[ImagePrompt, ...]:
    """One for each use: two pictures of one lane may be shown by the same adapter."""
    found = []
    for lane, unit, weight in uses:
        shown, hidden = unit.tokens()
        tokens = shown.new_zeros((count, *shown.shape[1:]))
        scales = shown.new_zeros(count)
        tokens[lane.start:lane.stop] = shown
        if lane.guided:
            tokens[lane.start] = hidden[0]
        scales[lane.start:lane.stop] = weight
        assert isinstance(unit.network, IPAdapter)
        found.append(ImagePrompt(unit.network, tokens, scales))
    return tuple(found)
