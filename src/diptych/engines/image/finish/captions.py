"""Which caption fits a picture best, asked of the image model itself: the one with which it predicts best the noise
that was added to the picture (a diffusion classifier: Li et al. 2023, https://arxiv.org/abs/2303.16203)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image

from diptych.core.errors import InvalidRequest
from diptych.core.size_hints import SizeHints
from diptych.engines.image.model import Contexts, ImageModel, Pass
from diptych.engines.image.prompting import plain_texts

Result = TypeVar("Result")
Do = Callable[[Callable[[], Result]], Result]
"""Calls a function in the thread of the model, between two steps of others, and gives its result."""
ROWS = 32
"""Of one pass."""
FIRST_SHARE, KEPT = 0.25, 12
"""Of all samples, what every caption is measured with; the best so many are then measured with all of them."""
EARLIEST, LATEST = 0.15, 0.85
"""Shares of the noise schedule between which samples lie: where the picture shows hardly at all, or hardly anything
else, no caption helps."""
NOT_CLASSIFIED = "interrogate needs an image model that paints from noise alone; this one is for inpainting"


class CaptionRanker:
    """Ranks captions by the mean squared error of the model's prediction, in units of what it predicts.

    All captions meet the same noise at the same timesteps, so that only their words differ.
    """

    def __init__(self, model: ImageModel, do: Do[Any], look: Callable[[], None]) -> None:
        if model.extra_channels:
            raise InvalidRequest(NOT_CLASSIFIED, param="model")
        self._model, self._do, self._look = model, do, look
        scheduler = DDPMScheduler.from_config(dict(model.scheduler_config))
        self._kept = scheduler.alphas_cumprod
        self._predicts: str = scheduler.config.prediction_type

    def rank(
        self, pixels: np.ndarray, captions: Sequence[str], samples: int, seed: int,
    ) -> list[tuple[str, float]]:
        """Captions with their errors, the smallest first. `pixels`: uint8 (height, width, 3), any size."""
        side = self._model.size
        square = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
        latents = self._done(lambda: self._model.encode_picture(square).mean.float())
        contexts = [self._context(caption) for caption in captions]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((samples, *latents.shape[1:]), generator=generator)
        order = torch.randperm(samples, generator=generator)
        shares = EARLIEST + (LATEST - EARLIEST) * (torch.arange(samples) + 0.5) / samples
        times = (shares[order] * (len(self._kept) - 1)).round().long()
        first = max(1, min(samples, round(samples * FIRST_SHARE)))
        sums = self._errors(latents, contexts, range(len(captions)), noise[:first], times[:first])
        ranked = sorted(range(len(captions)), key=lambda place: float(sums[place]))
        best = ranked[:KEPT]
        if first < samples and len(captions) > 1:
            more = self._errors(latents, contexts, best, noise[first:], times[first:])
            means = {place: float(sums[place] + extra) / samples for place, extra in zip(best, more, strict=True)}
        else:
            means = {place: float(sums[place]) / first for place in best}
        found = [(captions[place], error) for place, error in sorted(means.items(), key=lambda one: one[1])]
        # Those that were left behind stay behind, whatever their few samples said.
        return found + [(captions[place], float(sums[place]) / first) for place in ranked[len(best):]]

    def _context(self, caption: str) -> Contexts:
        return self._done(lambda: self._model.encode(plain_texts(caption)))

    def _done(self, work: Callable[[], Result]) -> Result:
        self._look()
        found: Result = self._do(work)
        return found

    def _errors(
        self, latents: torch.Tensor, contexts: Sequence[Contexts], places: Sequence[int], noise: torch.Tensor,
        times: torch.Tensor,
    ) -> torch.Tensor:
        """For each of `places`, the sum of its errors over all samples: (places,)."""
        pairs = [(place, sample) for sample in range(len(noise)) for place in places]
        rows = {place: row for row, place in enumerate(places)}
        sums = torch.zeros(len(places), dtype=torch.float64)
        for start in range(0, len(pairs), ROWS):
            part = pairs[start:start + ROWS]
            # Contexts of unlike length cannot share a pass.
            for tokens in {contexts[place].tokens for place, _ in part}:
                same = [pair for pair in part if contexts[pair[0]].tokens == tokens]
                errors = self._done(partial(self._pass, latents, contexts, same, noise, times))
                for (place, _), error in zip(same, errors, strict=True):
                    sums[rows[place]] += error
        return sums

    def _pass(
        self, latents: torch.Tensor, contexts: Sequence[Contexts], pairs: Sequence[tuple[int, int]],
        noise: torch.Tensor, times: torch.Tensor,
    ) -> torch.Tensor:
        """The error of each caption and sample, (pairs,), on the processor."""
        model = self._model
        picked = [sample for _, sample in pairs]
        when = times[picked]
        kept = self._kept[when].reshape(-1, 1, 1, 1).to(model.device)
        added = noise[picked].to(model.device)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * added
        some = [contexts[place] for place, _ in pairs]
        told = [model.time_ids(one, SizeHints(), model.size, model.size) for one in some]
        made = model.predict(Pass(
            noisy.to(model.dtype), when.to(model.device), torch.cat([one.positive for one in some]),
            torch.ones(len(pairs), device=model.device),
            pooled=torch.cat([one.pooled for one in some if one.pooled is not None]) if told[0] is not None else None,
            time_ids=torch.cat([ids[1:] for ids in told if ids is not None]) if told[0] is not None else None)).float()
        wanted = {"epsilon": added, "sample": latents.expand_as(added),
                  "v_prediction": kept.sqrt() * added - (1 - kept).sqrt() * latents}[self._predicts]
        errors: torch.Tensor = (made - wanted).square().mean((1, 2, 3)).double().cpu()
        return errors
