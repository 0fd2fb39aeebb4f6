"""How a picture begins: its first latents, of noise, of another picture, or of the pass before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from diptych.core.errors import InvalidRequest
from diptych.core.image_options import MAX_SEED, Reference
from diptych.core.painting import stages_of
from diptych.core.specs import ImageSpec
from diptych.engines.image.blend import Blend, latent_mask, slerp
from diptych.engines.image.canvas import Canvas
from diptych.engines.image.enlarging import enlarged
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import ImageModel
from diptych.engines.image.prompting import PicturePrompts
from diptych.engines.image.run import Run
from diptych.engines.image.samplers import Sampler, SamplerFactory


class Starter:
    """Begins lanes and their later passes on one model."""

    def __init__(self, model: ImageModel, samplers: SamplerFactory) -> None:
        self._model, self._samplers = model, samplers

    def lane(self, run: Run) -> Lane:
        """The run's next picture, at its first pass."""
        index = run.waiting[0]
        seed = run.seed_of(index)
        first, *later = stages_of(run.spec)
        prompts = PicturePrompts(first.spec, index, run.extras)
        contexts = run.contexts_of(prompts.at(0), self._model)
        sampler = self._samplers.build(first.spec, seed, first.skip)
        lane = Lane(run, index, seed, self._model, first, tuple(later), sampler, prompts, contexts, torch.empty(0))
        if run.canvas is None:
            self._from_noise(lane)
        else:
            self._from_picture(lane, run.canvas)
        run.waiting.popleft()
        run.lanes.append(lane)
        return lane

    def prepare(self, lane: Lane) -> None:
        """Make a lane ready for its next step: the next pass, the refiner, the prompt of that step."""
        if lane.sampler.done:
            self._go_on(lane)
        refiner, refine = lane.run.spec.refiner, lane.run.refine
        if (refiner is not None and refine is not None and lane.model is not refine
                and lane.sampler.step >= refiner.switch_at * lane.sampler.steps):
            lane.model = refine
            lane.condition()
        elif lane.prompts.changes:
            lane.condition()

    def _go_on(self, lane: Lane) -> None:
        """Begin the pass that follows the one that is done."""
        made = lane.steps_made
        latents = enlarged(lane.latents, lane.stage.spec, lane.run.coder(self._model), lane.run.upscale)
        lane.stage, *later = lane.later
        lane.later, lane.made_before = tuple(later), made
        lane.model, lane.blend = self._model, None
        lane.prompts = PicturePrompts(lane.stage.spec, lane.index, lane.run.extras)
        lane.contexts = lane.run.contexts_of(lane.prompts.at(0), lane.model)
        lane.sampler = self._samplers.build(lane.stage.spec, lane.seed, lane.stage.skip)
        noise = self._draw(lane.sampler, latents.shape)
        lane.latents = lane.sampler.start(noise, latents.to(self._model.dtype))
        lane.extra = self._unmasked(lane)

    def _from_noise(self, lane: Lane) -> None:
        spec, side = lane.stage.spec, self._model.scale_factor
        assert spec.width is not None and spec.height is not None
        shape = (1, self._model.latent_channels, spec.height // side, spec.width // side)
        lane.latents = lane.sampler.start(self._varied(lane, self._draw(lane.sampler, shape)))
        lane.extra = self._unmasked(lane)

    def _from_picture(self, lane: Lane, canvas: Canvas) -> None:
        """The order in which numbers are drawn is that of diffusers' pipelines, so that seeds mean the same."""
        model, sampler, spec = self._model, lane.sampler, lane.stage.spec
        draw = functools.partial(self._draw, sampler)
        moments = lane.run.once("moments", lambda: lane.run.coder(model).encode_picture(canvas.pixels))
        free = spec.strength >= 1.0 and canvas.mask is not None
        if model.extra_channels and free:
            origin = None
            noise = self._varied(lane, draw(moments.mean.shape))
        else:
            origin = moments.sample(draw)
            noise = self._varied(lane, draw(origin.shape))
        mask = None if canvas.mask is None else latent_mask(canvas.mask, model.scale_factor, moments.mean)
        if origin is not None and mask is not None and canvas.latent_fill != "original":
            origin = _emptied(origin, mask, draw if canvas.latent_fill == "noise" else None)
        lane.latents = sampler.start(noise, None if free else origin)
        if model.extra_channels:
            lane.extra = self._masked(lane, canvas, mask)
        elif origin is not None and (mask is not None or spec.strength_schedule):
            if mask is not None and moments.std is not None:
                draw(moments.mean.shape)  # diffusers' pipeline encodes the picture without its masked part, too
            lane.blend = Blend(origin, noise, mask, spec.strength_schedule)

    def _draw(self, sampler: Sampler, shape: tuple[int, ...]) -> torch.Tensor:
        return sampler.draw(shape, self._model.device, self._model.dtype)

    def _varied(self, lane: Lane, noise: torch.Tensor) -> torch.Tensor:
        """With as much of the variation's noise as is asked for."""
        spec = lane.run.spec
        if not spec.variation_strength:
            return noise
        seed = (spec.variation_seed + lane.index) % (MAX_SEED + 1)
        generator = torch.Generator("cpu").manual_seed(seed)
        other = torch.randn(noise.shape, generator=generator, dtype=noise.dtype).to(noise.device)
        return slerp(spec.variation_strength, noise, other)

    def _masked(self, lane: Lane, canvas: Canvas, mask: torch.Tensor | None) -> torch.Tensor | None:
        """What a model for inpainting is shown: the mask, and the picture with gray where it is repainted."""
        model = self._model
        if mask is None or canvas.mask is None:
            return self._unmasked(lane)
        hidden = canvas.mask >= 0.5
        moments = lane.run.once("masked moments", lambda: lane.run.coder(model).encode_picture(canvas.pixels, hidden))
        return torch.cat([mask, moments.sample(functools.partial(self._draw, lane.sampler))], dim=1)

    def _unmasked(self, lane: Lane) -> torch.Tensor | None:
        """What a model for inpainting is shown where everything is painted."""
        model = self._model
        if not model.extra_channels:
            return None
        _, _, height, width = lane.latents.shape
        side = model.scale_factor
        nothing = np.zeros((height * side, width * side, 3), np.uint8)
        hidden = np.ones(nothing.shape[:2], bool)
        moments = lane.run.once(f"gray {width}x{height}", lambda: lane.run.coder(model).encode_picture(nothing, hidden))
        return torch.cat([torch.ones_like(lane.latents[:, :1], dtype=model.dtype), moments.mean], dim=1)


def _emptied(
    origin: torch.Tensor, mask: torch.Tensor, draw: Callable[[torch.Size], torch.Tensor] | None,
) -> torch.Tensor:
    """With noise, or zeros, where the mask is."""
    return (1 - mask) * origin + mask * (torch.zeros_like(origin) if draw is None else draw(origin.shape))


def picture_of(files: Mapping[str, str], id: str, param: str) -> Image.Image:
    """A picture that was sent. Raises InvalidRequest when it is not (any more) there."""
    path = files.get(Reference("input", id, param).key)
    try:
        if path is None:
            raise FileNotFoundError
        opened: Image.Image = Image.open(path)
        opened.load()
        return opened
    except OSError as error:
        raise InvalidRequest(f"{param} names the picture {id[:20]}…, which is not there any more: send it again",
                             param=param, code="input_missing") from error


def canvas_of(spec: ImageSpec, files: Mapping[str, str], model: ImageModel) -> Canvas | None:
    """The canvas of a spec that starts from a picture. Raises InvalidRequest."""
    if spec.init_image is None:
        return None
    mask = spec.mask.image if spec.mask is not None else None
    return Canvas.of(
        spec, picture_of(files, spec.init_image, "init_image"),
        None if mask is None else picture_of(files, mask, "mask.image"),
        wanted=(spec.width, spec.height), own_size=model.size, multiple=model.multiple)
