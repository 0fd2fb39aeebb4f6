"""One picture on its way through the passes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diptych.core.errors import JobFailed
from diptych.core.painting import Stage
from diptych.engines.image.adapters.layers import Chosen
from diptych.engines.image.blend import Blend
from diptych.engines.image.model import Contexts, ImageModel
from diptych.engines.image.prompting import PicturePrompts
from diptych.engines.image.samplers import Sampler

if TYPE_CHECKING:
    from diptych.engines.image.run import Run


@dataclass(eq=False)
class Lane:
    """Latents (1, C, h, w), and the sampler that moves them.

    `stage` is the pass that it is in, `later` are those that follow. `extra` (1, E, h, w): what a model for inpainting
    sees beside the latents.
    """

    run: Run
    index: int
    seed: int
    model: ImageModel
    stage: Stage
    later: tuple[Stage, ...]
    sampler: Sampler
    prompts: PicturePrompts
    contexts: Contexts
    latents: torch.Tensor
    blend: Blend | None = None
    extra: torch.Tensor | None = None
    final: torch.Tensor | None = None
    """Where the latest step sees the latents end: what a preview shows."""
    shown: int = 0
    made_before: int = 0
    """Steps of the passes before this one."""

    @property
    def group(self) -> tuple[Hashable, ...]:
        """Lanes of equal group fit into one UNet pass."""
        return (id(self.model), *self.latents.shape, self.contexts.tokens, self.stage.spec.tiling)

    @property
    def adapters(self) -> Chosen:
        """Of the UNet that makes the next step; a refiner has none."""
        return () if self.model is self.run.refine else self.prompts.unet

    @property
    def steps_made(self) -> int:
        return self.made_before + self.sampler.step - self.sampler.skip

    @property
    def guided(self) -> bool:
        """Whether it needs a row for its negative prompt."""
        wanted = self.stage.spec.guidance > 1.0 or self.contexts.weights != (1.0,)
        return wanted and not self.model.distilled_guidance

    @property
    def done(self) -> bool:
        """Whether all passes are."""
        return self.sampler.done and not self.later

    def condition(self) -> None:
        """Take the contexts of the step that comes next."""
        self.contexts = self.run.contexts_of(self.prompts.at(self.sampler.step), self.model)

    def advance(self, prediction: torch.Tensor) -> None:
        """One step; raises JobFailed when numbers stop being finite."""
        self.latents, self.final = self.sampler.advance(prediction, self.latents)
        if self.blend is not None:
            self.latents = self.blend.apply(self.latents, self.sampler)
        if not bool(torch.isfinite(self.latents).all()):
            raise JobFailed(
                f"picture {self.index}: the latents stopped being finite numbers at step {self.sampler.step} of "
                f"{self.sampler.steps}; try another sampler, fewer steps or a lower guidance", code="not_finite")

    def preview_due(self) -> bool:
        """True once at every step that is a multiple of the spec's `preview_every`; never at the last."""
        every, step = self.run.spec.preview_every, self.steps_made
        if not every or step == self.shown or step % every or self.done:
            return False
        self.shown = step
        return True
