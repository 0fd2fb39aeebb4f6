"""The image engine: one model of one family, and the batcher that runs requests on it."""

from __future__ import annotations

import importlib
import secrets
from typing import Any

import numpy as np
import torch

from diptych.core.cards import Card
from diptych.core.checks import check, check_size
from diptych.core.errors import Conflict, InvalidRequest, Unavailable
from diptych.core.image_options import MAX_SEED, Reference
from diptych.core.painting import stages_of
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import FinishSpec, ImageSpec, InterrogateSpec
from diptych.core.stages import BUILT_IN_UPSCALERS
from diptych.engines.base import Emit
from diptych.engines.image.accepting import device_of, dtype_of, made_folder, picture_spec
from diptych.engines.image.adapters.extras import Extras
from diptych.engines.image.batcher import Batcher
from diptych.engines.image.canvas import Canvas
from diptych.engines.image.companions import Companions
from diptych.engines.image.control.units import units_of
from diptych.engines.image.enlarging import Upscale
from diptych.engines.image.finish.finishing import Finishing, deliver
from diptych.engines.image.finish.upscale import by_network
from diptych.engines.image.finish.upscalers import load_upscaler
from diptych.engines.image.lane import Lane
from diptych.engines.image.model import ImageModel, LoadModel
from diptych.engines.image.prompting import PicturePrompts
from diptych.engines.image.run import Run
from diptych.engines.image.samplers import SamplerFactory
from diptych.engines.image.starting import canvas_of
from diptych.engines.memory import reset_peak

DEFAULT_BATCH = 16
PIPELINE = "pipeline"
"""The family of models that are painted by diffusers' own pipelines."""
# A warm spare waits with its libraries imported, so the usual family is imported with the engine.
importlib.import_module(f"{__package__}.sd1")


class ImageEngine:
    """See `Engine` for the contract. Options of `load`: `image_batch` (most pictures in one step), `device` and
    `dtype` (float32, float16 or bfloat16) as torch names them."""

    name = "image"

    def __init__(self) -> None:
        self._model: ImageModel | None = None
        self._card: Card | None = None
        self._samplers: SamplerFactory | None = None
        self._batcher: Batcher | None = None
        self._companions = Companions()
        self._finishing: Finishing | None = None
        self._whole: Any = None
        """The engine that paints with a whole pipeline of diffusers, where the model is of a family without a file."""

    def load(self, request: LoadRequest) -> None:
        if self._batcher is not None or self._whole is not None:
            raise Conflict("this runner holds a model already")
        torch.set_num_threads(request.threads)
        self._load(request)
        self._finishing = Finishing(
            device_of(request.options), lambda: self.threads or 1, self.submit, self.cancel, request.card)

    def _load(self, request: LoadRequest) -> None:
        if request.card.family == PIPELINE:
            whole = importlib.import_module(f"{__package__}.{PIPELINE}").PipelineEngine()
            whole.load(request)
            self._whole = whole
            return
        load_model = _family(request.card.family)
        model = load_model(request.card.path, device_of(request.options), dtype_of(request.options))
        # While it is converted, a file's pages lie in memory beside the weights. They have gone, and the system could
        # have taken them at any time: they are nothing that the model needs.
        reset_peak()
        self._model = model
        self._card = request.card.model_copy(
            update={"size": request.card.size or model.size, "multiple": request.card.multiple or model.multiple})
        self._samplers = SamplerFactory(model.scheduler_config)
        cap = int(request.options.get("image_batch", DEFAULT_BATCH))
        pixels = int(request.options.get("batch_pixels", 0))
        self._batcher = Batcher(
            model, self._samplers, max(cap, 1), request.threads, pixels or None, self._finish)

    @property
    def threads(self) -> int | None:
        if self._whole is not None:
            return int(self._whole.threads)
        return None if self._batcher is None else self._batcher.threads

    def set_threads(self, threads: int) -> None:
        if self._whole is not None:
            self._whole.set_threads(threads)
        if self._batcher is not None:
            self._batcher.set_threads(threads)

    def passes(self) -> dict[str, int]:
        if self._whole is not None:
            return dict(self._whole.passes())
        return {} if self._batcher is None else self._batcher.passes

    def submit(self, request: RunRequest, emit: Emit) -> None:
        if isinstance(request.spec, FinishSpec) and self._finishing is not None:
            self._finishing.job(request, request.spec, emit)
            return
        if isinstance(request.spec, InterrogateSpec):
            self._interrogate(request, request.spec, emit)
            return
        if self._whole is not None:
            self._whole.submit(request, emit)
            return
        if self._batcher is None or self._samplers is None or self._card is None or self._model is None:
            raise Unavailable("this runner holds no model")
        spec = picture_spec(request)
        check(spec, self._card)
        canvas = canvas_of(spec, request.files, self._model)
        spec = self._complete(spec, canvas)
        extras = Extras.of(spec, request.files, self._model, self._companions)
        for stage in stages_of(spec):
            check(stage.spec, self._card)
            self._samplers.check(stage.spec)
            self._check_prompts(stage.spec, extras)
        refine = self._refiner(spec, request)
        units = units_of(spec, request, self._model, self._companions)
        self._batcher.add(Run(
            request.id, spec, self._card, made_folder(request), frozenset(request.skip), emit, request.timeout_seconds,
            request.share, canvas, upscale=self._upscale(spec, request), extras=extras, refine=refine, units=units,
            request=request))

    def cancel(self, id: str) -> bool:
        if self._finishing is not None and self._finishing.cancel(id):
            return True
        if self._whole is not None:
            return bool(self._whole.cancel(id))
        return self._batcher is not None and self._batcher.cancel(id)

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        if self._batcher is not None:
            self._batcher.close()
            self._batcher = self._model = self._samplers = None
        if self._finishing is not None:
            self._finishing.close()
            self._finishing = None

    def _interrogate(self, request: RunRequest, spec: InterrogateSpec, emit: Emit) -> None:
        if self._batcher is None or self._finishing is None or self._model is None:
            raise InvalidRequest("this model cannot be asked about pictures: it is painted by a whole pipeline",
                                 param="model")
        self._finishing.interrogate(request, spec, emit, self._model, self._batcher)

    def _finish(self, lane: Lane, pixels: np.ndarray) -> None:
        assert self._finishing is not None and self._batcher is not None
        deliver(self._finishing, self._batcher, lane, pixels)

    def _check_prompts(self, spec: ImageSpec, extras: Extras) -> None:
        """Raises InvalidRequest for prompts that this model cannot follow."""
        assert self._model is not None
        layers = self._model.text_layers
        if spec.clip_skip > layers:
            raise InvalidRequest(
                f"clip_skip is {spec.clip_skip}, but the text encoder of this model has {layers} layers",
                param="clip_skip")
        combined = [PicturePrompts(spec, index, extras).combined for index in range(max(1, len(spec.resolved)))]
        if self._model.distilled_guidance and any(combined):
            raise InvalidRequest(
                "prompt has parts joined by AND; this model was distilled to work without guidance, which they need",
                param="prompt")

    def _complete(self, spec: ImageSpec, canvas: Canvas | None) -> ImageSpec:
        """The spec with width, height and seed given, fit for the model's latents."""
        assert self._card is not None and self._model is not None
        width, height = spec.width or self._card.size, spec.height or self._card.size
        if canvas is not None:
            height, width = canvas.pixels.shape[:2]
        assert width is not None and height is not None
        check_size(width, height, self._model.multiple)
        seed = secrets.randbelow(MAX_SEED) if spec.seed < 0 else spec.seed
        return spec.model_copy(update={"width": width, "height": height, "seed": seed})

    def _upscale(self, spec: ImageSpec, request: RunRequest) -> Upscale | None:
        """What `hires.upscaler` names, where it is of the library. Raises InvalidRequest."""
        if spec.hires is None or spec.hires.upscaler in BUILT_IN_UPSCALERS:
            return None
        assert self._model is not None
        device, name, param = self._model.device, spec.hires.upscaler, "hires.upscaler"
        path = request.files.get(Reference("upscaler", name, param).key)
        if path is None:
            raise InvalidRequest(f"{param} is {name!r}, which is not there", param=param)
        network = self._companions.get(
            "upscaler", path, lambda path: load_upscaler(path, device, self.threads or 1, param=param))
        return lambda pixels, size: by_network(pixels, size, network, lambda share: None, param=param)

    def _refiner(self, spec: ImageSpec, request: RunRequest) -> ImageModel | None:
        """The model that takes over; loaded here, while others' steps go on. Raises InvalidRequest."""
        if spec.refiner is None:
            return None
        model, card = self._model, request.models.get(spec.refiner.model)
        if model is None or card is None:
            raise InvalidRequest(f"refiner.model is {spec.refiner.model!r}, which is not there", param="refiner.model")
        load_model = _family(card.family)
        found = self._companions.get("model", card.path, lambda path: load_model(path, model.device, model.dtype))
        if (found.latent_channels, found.scale_factor) != (model.latent_channels, model.scale_factor):
            raise InvalidRequest(
                f"refiner.model is {card.id!r}, whose latents are of another kind than this model's",
                param="refiner.model")
        return found


def _family(name: str) -> LoadModel:
    """`load_model` of the file of this package that serves a family; raises InvalidRequest when there is none."""
    try:
        loader = importlib.import_module(f"{__package__}.{name}") if name.isidentifier() else None
    except ModuleNotFoundError:
        loader = None
    load_model: LoadModel | None = getattr(loader, "load_model", None)
    if load_model is None:
        raise InvalidRequest(f"image models of family {name!r} are not supported", param="model")
    return load_model
