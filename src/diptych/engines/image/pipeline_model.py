"""A whole pipeline of diffusers: Stable Diffusion 3, FLUX and other families, each with its own denoising loop."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from diptych.core.errors import InvalidRequest, JobFailed
from diptych.core.painting import steps_of
from diptych.core.pipelines import PIPELINES
from diptych.core.specs import ImageSpec
from diptych.engines.image.pipeline_samplers import scheduler_for

log = logging.getLogger(__name__)

OnStep = Callable[[int, torch.Tensor], None]
"""Told after each step: how many of the steps that are made are done, and the latents as they are."""
VAES = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
"""Those whose latents a preview can be fitted to."""


@dataclass(frozen=True)
class Canvas:
    """The picture to start from, RGB, and the mask of what is repainted, L, both of the result's size."""

    picture: Image.Image
    mask: Image.Image | None
    strength: float


class PipelineModel:
    """A pipeline and what it takes. All calls come from one thread."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._folder_scheduler = pipe.scheduler
        self.vae = getattr(pipe, "vae", None)
        self.traits = PIPELINES[type(pipe).__name__]
        self.name = type(pipe).__name__
        self.device: torch.device = pipe.device
        self.dtype: torch.dtype = pipe.dtype
        self.scale_factor: int = int(getattr(pipe, "vae_scale_factor", 8))
        core = getattr(pipe, "transformer", None) or pipe.unet
        patch = core.config.get("patch_size") or 1
        self.multiple = math.lcm(8, self.scale_factor * (2 if self.traits.packed else int(patch)))
        side = core.config.get("sample_size")
        self.size = side * self.scale_factor if isinstance(side, int) else self.traits.size
        config = getattr(self.vae, "config", {})
        self.latent_channels: int = int(config.get("latent_channels") or 0)
        self.previews = bool(self.latent_channels) and type(self.vae).__name__ in VAES and (
            not self.traits.packed or hasattr(pipe, "_unpack_latents"))

    def paint(
        self, spec: ImageSpec, prompts: tuple[str, str], seed: int, on_step: OnStep, canvas: Canvas | None = None,
    ) -> np.ndarray:
        """One picture, uint8 (height, width, 3). What `on_step` raises ends it.

        Args:
            spec: complete: width and height are given.
            prompts: the prompt and the negative prompt.

        Raises:
            InvalidRequest: the pipeline refuses its arguments.
            JobFailed: the numbers stopped being finite.
        """
        pipe = self._variant(canvas)
        pipe.scheduler = scheduler_for(self._folder_scheduler, spec.sampler, spec.schedule)
        pipe.set_progress_bar_config(disable=True)
        taken = inspect.signature(pipe.__call__).parameters
        values = {**self._values(spec, prompts, seed, taken), **_canvas_values(canvas), **_callback(
            pipe, steps_of(spec), on_step, taken)}
        found = pipe(**{name: value for name, value in values.items() if name in taken}).images
        picture = np.asarray(found[0] if not isinstance(found[0], list) else found[0][0])
        if not np.isfinite(picture).all():
            raise JobFailed("the picture has values that are not finite numbers; try another sampler, fewer steps or a "
                            "lower guidance", code="not_finite")
        return np.asarray((picture * 255).round(), dtype=np.uint8)

    def _values(
        self, spec: ImageSpec, prompts: tuple[str, str], seed: int, taken: Mapping[str, inspect.Parameter],
    ) -> dict[str, Any]:
        guidance = "guidance_scale"
        if "true_cfg_scale" in taken and taken[guidance].default is None:
            guidance = "true_cfg_scale"  # of a model without distilled guidance
        values: dict[str, Any] = {
            "prompt": prompts[0], "width": spec.width, "height": spec.height, "num_inference_steps": spec.steps,
            guidance: spec.guidance, "generator": torch.Generator("cpu").manual_seed(seed), "output_type": "np",
            # Sizes are what was asked for, not the nearest that the model was trained on.
            "use_resolution_binning": False}
        if self.traits.negative:
            values["negative_prompt"] = prompts[1]
        if spec.clip_skip > 1:
            values["clip_skip"] = spec.clip_skip - 1  # diffusers counts the layers that are left out
        return values

    def _variant(self, canvas: Canvas | None) -> Any:
        """The pipeline's class for what is asked, with the same parts."""
        if canvas is None:
            return self._pipe
        kind = diffusers.AutoPipelineForInpainting if canvas.mask is not None else diffusers.AutoPipelineForImage2Image
        return kind.from_pipe(self._pipe)

    def latents_of(self, latents: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
        """Latents (1, C, h, w) of what a pipeline carries from step to step."""
        if latents.ndim == 4:
            return latents
        unpacked: torch.Tensor = self._pipe._unpack_latents(latents, spec.height, spec.width, self.scale_factor)
        return unpacked

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (1, C, h, w) to a picture, uint8 (height, width, 3): what previews are fitted to."""
        assert self.vae is not None
        config = self.vae.config
        plain = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
        pixels = self.vae.decode(plain.to(self.vae.dtype), return_dict=False)[0][0]
        picture: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
        return np.asarray((picture * 255).round(), dtype=np.uint8)


def _canvas_values(canvas: Canvas | None) -> dict[str, Any]:
    if canvas is None:
        return {}
    return {"image": canvas.picture, "mask_image": canvas.mask, "strength": canvas.strength}


def _callback(
    pipe: Any, steps: int, on_step: OnStep, taken: Mapping[str, inspect.Parameter],
) -> dict[str, Any]:
    """The argument by which this pipeline tells of its steps: older ones have another."""
    if "callback_on_step_end" not in taken:
        return {"callback": lambda step, _, latents: on_step(step + 1, latents), "callback_steps": 1}

    def told(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        """`step` counts passes of the model, of which some samplers need two for one step."""
        passes = getattr(pipe, "num_timesteps", None) or len(pipe.scheduler.timesteps)
        on_step(steps * (step + 1) // max(1, int(passes)), values["latents"])
        return {}

    return {"callback_on_step_end": told, "callback_on_step_end_tensor_inputs": ["latents"]}


def load_pipeline(path: str, device: torch.device, dtype: torch.dtype) -> PipelineModel:
    """Load a folder in diffusers' layout, with all its parts from safetensors.

    Raises:
        InvalidRequest: it is no such folder, and what is wrong.
    """
    folder = Path(path)
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, **_variant(folder))
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        log.exception("model %s could not be loaded", folder.name)
        reason = str(error).strip().split("\n")[0].replace(str(folder), folder.name)[:300]
        raise InvalidRequest(f"model folder {folder.name!r} could not be loaded: {reason}", param="model") from error
    if type(pipe).__name__ not in PIPELINES:
        raise InvalidRequest(f"the pipeline of model {folder.name!r} is {type(pipe).__name__!r}; supported: "
                             f"{', '.join(PIPELINES)}", param="model")
    return PipelineModel(pipe.to(device))


def _variant(folder: Path) -> dict[str, str]:
    """The half precision copy of the weights, where it is alone."""
    files = [file.name for file in folder.glob("*/*.safetensors")]
    return {"variant": "fp16"} if files and all(".fp16" in name for name in files) else {}
