"""The units of control of one request: their maps, and how much each counts in a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from diptych.core.control import Control
from diptych.core.errors import InvalidRequest
from diptych.core.image_options import Reference
from diptych.core.painting import stages_of
from diptych.core.preprocessors import PREPROCESSORS
from diptych.core.protocol import RunRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.companions import Companions
from diptych.engines.image.control.networks import ControlNet, T2IAdapter
from diptych.engines.image.control.prompts import ImageEncoder, IPAdapter
from diptych.engines.image.model import ImageModel
from diptych.engines.image.starting import picture_of
from diptych.preprocess.run import control_map

Made = TypeVar("Made")
Size = tuple[int, int]
GUESS_START = -1.0
"""Logarithm (base 10) of the share of the finest layer in the modes that soften a ControlNet; the coarsest has 0."""


class Unit:
    """One unit: its network and picture. Maps are made once for each size of pictures.

    Args:
        files: paths of its preprocessor's files, by their names.
    """

    def __init__(self, control: Control, network: ControlNet | T2IAdapter | IPAdapter, picture: Image.Image,
                 files: Mapping[str, str], encoder: ImageEncoder | None = None) -> None:
        self.control, self.network = control, network
        self._picture, self._files, self._encoder = picture, files, encoder
        self._maps: dict[Size, np.ndarray] = {}
        self._made: dict[Size | None, Any] = {}

    def prepare(self, size: Size) -> None:
        """Make the map for pictures of this size, so that nobody's steps wait for it.

        Raises:
            NotFound, InvalidRequest: a preprocessor's file is missing, or is not what it should be.
        """
        if not isinstance(self.network, IPAdapter):
            self.map(size)

    def map(self, size: Size) -> np.ndarray:
        """The control map for pictures of this size. Raises NotFound, InvalidRequest."""
        if size not in self._maps:
            self._maps[size] = control_map(self._picture, self.control, size, self._files)
        return self._maps[size]

    def hint(self, size: Size) -> torch.Tensor:
        """Features (1, C, h, w) for a ControlNet."""
        network = self.network
        assert isinstance(network, ControlNet)
        return self._once(size, lambda: network.hint(self.map(size)))

    def features(self, size: Size) -> tuple[torch.Tensor, ...]:
        """What a T2I-Adapter adds, without its weight."""
        network = self.network
        assert isinstance(network, T2IAdapter)
        return self._once(size, lambda: network.features(self.map(size)))

    def tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens of the picture and of none."""
        network, encoder = self.network, self._encoder
        assert isinstance(network, IPAdapter)
        assert encoder is not None
        return self._once(None, lambda: network.tokens(encoder, self._picture))

    def weight(self, step: int, steps: int) -> float:
        """How much it counts in step `step` of `steps`; 0 outside of its share of them."""
        control = self.control
        inside = step / steps >= control.start and (step + 1) / steps <= control.end
        return control.weight if inside else 0.0

    @property
    def prompt_only(self) -> bool:
        """Whether it counts for the prompt alone, and not for the negative one."""
        return self.control.control_mode == "control" or (isinstance(self.network, ControlNet) and self.network.pooled)

    def shares(self, layers: int) -> tuple[float, ...]:
        """How much of it each layer gets, from the finest skip to the middle: all of it, or in the modes that soften
        it, a tenth at first and all at last, evenly on a logarithmic scale."""
        if self.control.control_mode == "balanced" or (isinstance(self.network, ControlNet) and self.network.pooled):
            return (1.0,) * layers
        return tuple(torch.logspace(GUESS_START, 0, layers).tolist())

    def _once(self, key: Size | None, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        found: Made = self._made[key]
        return found


def units_of(spec: ImageSpec, request: RunRequest, model: ImageModel, companions: Companions) -> tuple[Unit, ...]:
    """The units of a spec, with their maps for all passes: nobody's steps wait for them.

    Raises:
        InvalidRequest: a file is damaged, or was made for another family of models.
        NotFound: a file of a preprocessor is missing.
    """
    if not spec.controls:
        return ()
    loading = Loading(model, companions, request.files, functools.partial(picture_of, request.files))
    units = tuple(loading.unit(control, number) for number, control in enumerate(spec.controls))
    for stage in stages_of(spec):
        assert stage.spec.width is not None and stage.spec.height is not None
        for unit in units:
            unit.prepare((stage.spec.width, stage.spec.height))
    return units


@dataclass(frozen=True)
class Loading:
    """What units are loaded with. `picture`: of the input store, by id and the field that names it."""

    model: ImageModel
    companions: Companions
    files: Mapping[str, str]
    picture: Callable[[str, str], Image.Image]

    def unit(self, control: Control, number: int) -> Unit:
        """Unit `number` of the request. Raises InvalidRequest."""
        unet = getattr(self.model, "unet", None)
        if unet is None or not hasattr(unet.config, "cross_attention_dim"):
            raise InvalidRequest("models of this family take no controls: only Stable Diffusion 1, 2 and XL do",
                                 param="controls")
        place = f"controls[{number}]"
        picture = self.picture(control.image, f"{place}.image")
        names = {name: self.files[key] for name in PREPROCESSORS[control.preprocessor].files
                 if (key := Reference("preprocessor", name, "").key) in self.files}
        where = self.model.device, self.model.dtype
        kinds: dict[str, Callable[[str], Any]] = {
            "controlnet": lambda path: ControlNet(path, unet, *where),
            "t2i_adapter": lambda path: T2IAdapter(path, unet, self.model.scale_factor, *where),
            "ip_adapter": lambda path: IPAdapter(path, unet, *where)}
        network = self._loaded(control.kind, control.model, f"{place}.model", kinds[control.kind])
        encoder = None
        if control.kind == "ip_adapter":
            encoder = self._loaded("image_encoder", control.image_encoder, f"{place}.image_encoder",
                                   lambda path: ImageEncoder(path, *where))
        return Unit(control, network, picture, names, encoder)

    def _loaded(self, kind: str, id: str, param: str, load: Callable[[str], Any]) -> Any:
        path = self.files.get(Reference(kind, id, param).key)
        if path is None:
            raise InvalidRequest(f"{param} is {id!r}, which is not there any more", param=param, code="part_missing")
        return self.companions.get(kind, path, load)
