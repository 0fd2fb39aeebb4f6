"""The stages of `finish`, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from diptych.core.errors import Forbidden, InvalidRequest
from diptych.core.events import Failed
from diptych.core.finish import (
    Background,
    Detail,
    FinishStage,
    InvisibleMark,
    NsfwAction,
    Upscale,
    Watermark,
    finish_references,
)
from diptych.core.nudity import PACKAGES, Detector, installed
from diptych.core.watermark import embed
from diptych.engines.image.finish.background import Matting, without_background
from diptych.engines.image.finish.detail import Repaint, detailed
from diptych.engines.image.finish.marks import blurred, watermarked
from diptych.engines.image.finish.tiles import Tell, tell_part
from diptych.engines.image.finish.upscale import upscaled
from diptych.engines.image.finish.upscalers import Upscaler, load_upscaler

NSFW_FROM = 0.5
"""Score from which on a picture counts as one that shows nudity."""
KEPT_NETWORKS = 3
Loaded = TypeVar("Loaded")


class PictureRefused(Forbidden):
    """The check for nudity refuses a picture. `score`: 0 to 1."""

    code = "content_filter"

    def __init__(self, score: float) -> None:
        super().__init__(f"the check for nudity refused it (score {score:.2f}, at most {NSFW_FROM:g})", param="nsfw")
        self.score = score


class Wishes(Protocol):
    """What of a spec says how a picture is finished."""

    @property
    def finish(self) -> Sequence[FinishStage]: ...
    @property
    def nsfw(self) -> NsfwAction: ...


@dataclass
class Finished:
    """A finished picture, uint8 (height, width, 3 or 4), and what its record shall say beside its spec."""

    pixels: np.ndarray
    notes: dict[str, Any] = field(default_factory=dict)


class Finisher:
    """Carries out stages. Keeps the networks that were used last. Belongs to one thread.

    Args:
        threads: how many to compute with, asked each time a network is loaded.
    """

    def __init__(self, device: torch.device, threads: Callable[[], int]) -> None:
        self._device, self._threads = device, threads
        self._detector = Detector()
        self._networks: dict[str, Any] = {}

    def finish(
        self, pixels: np.ndarray, wishes: Wishes, files: Mapping[str, str], tell: Tell,
        repaint: Repaint | None = None,
    ) -> Finished:
        """uint8 (height, width, 3 or 4), finished.

        Args:
            files: absolute paths by `Reference.key`.
            tell: takes the share of the work that is done; may raise to end it.
            repaint: paints a part again, where there is a model to do so.

        Raises:
            InvalidRequest: a stage cannot be carried out; says which, and why. PictureRefused.
        """
        made = Finished(pixels)
        keys = {reference.param: reference.key for reference in finish_references(wishes.finish)}
        checked = wishes.nsfw == "off"
        for place, stage in enumerate(wishes.finish):
            if not checked and isinstance(stage, Watermark | InvisibleMark):
                checked = True
                self._check(made, wishes.nsfw)
            at = _Place(f"finish[{place}]", keys, files, partial(tell_part, tell, place, len(wishes.finish)))
            tell(place / len(wishes.finish))
            made.pixels = self._stage(made, stage, at, repaint)
        if not checked:
            self._check(made, wishes.nsfw)
        return made

    def _stage(self, made: Finished, stage: FinishStage, at: _Place, repaint: Repaint | None) -> np.ndarray:
        if isinstance(stage, Upscale):
            def network() -> Upscaler:
                path = at.file("model")
                return self._kept(path, lambda: load_upscaler(
                    path, self._device, self._threads(), param=f"{at.param}.model"))

            return upscaled(made.pixels, stage, network, at.tell, param=at.param)
        if isinstance(stage, Background):
            path = at.file("model")
            matting = self._kept(path, lambda: Matting(path, self._threads(), param=f"{at.param}.model"))
            return without_background(made.pixels, matting)
        if isinstance(stage, Detail):
            return self._detail(made, stage, at, repaint)
        if isinstance(stage, Watermark):
            return watermarked(made.pixels, stage, _picture(at.file("picture")) if stage.picture else None)
        return embed(made.pixels, stage.payload.encode(), param=f"{at.param}.payload")

    def _detail(self, made: Finished, stage: Detail, at: _Place, repaint: Repaint | None) -> np.ndarray:
        if repaint is None:
            raise InvalidRequest(f"{at.param}: there is no model here that could paint parts again", param=at.param)
        if stage.detect is not None and not installed():
            raise InvalidRequest(
                f"{at.param}.detect is {stage.detect!r}, which takes the packages {' and '.join(PACKAGES)}; they are "
                "not installed here; pip install 'diptych[moderation]', or give boxes or a mask",
                param=f"{at.param}.detect", code="not_installed")
        mask = _picture(at.file("mask")) if stage.mask is not None else None
        pixels, parts = detailed(made.pixels, stage, mask, self._detector, repaint, at.tell)
        made.notes.setdefault("detailed", []).append([list(part) for part in parts])
        return pixels

    def _check(self, made: Finished, action: NsfwAction) -> None:
        """Blur a picture in which nudity is found, or raise PictureRefused."""
        if not installed():
            raise InvalidRequest(
                f"nsfw is {action!r}, which takes the packages {' and '.join(PACKAGES)}; they are not installed here; "
                "pip install 'diptych[moderation]'", param="nsfw", code="not_installed")
        score = self._detector.exposed(Image.fromarray(made.pixels))
        made.notes["nsfw"] = {"score": round(score, 4), "action": "none"}
        if score < NSFW_FROM:
            return
        if action == "refuse":
            raise PictureRefused(score)
        made.pixels = blurred(made.pixels)
        made.notes["nsfw"]["action"] = "blur"

    def _kept(self, path: str, load: Callable[[], Loaded]) -> Loaded:
        """A network, loaded unless it is one of those that were used last."""
        found: Loaded = self._networks.pop(path, None) or load()
        self._networks[path] = found
        while len(self._networks) > KEPT_NETWORKS:
            del self._networks[next(iter(self._networks))]
        return found


@dataclass(frozen=True)
class _Place:
    """Where in `finish` a stage stands, its files, and who hears how far it is."""

    param: str
    keys: Mapping[str, str]
    files: Mapping[str, str]
    tell: Tell

    def file(self, name: str) -> str:
        """The path of what the stage's field `name` names."""
        return self.files[self.keys[f"{self.param}.{name}"]]


def _picture(path: str) -> Image.Image:
    with Image.open(Path(path)) as opened:
        picture: Image.Image = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
        return picture


def told_refused(refused: dict[int, float], count: int) -> Failed:
    """The end of a job of `count` pictures of which some were refused: index and score of each."""
    named = ", ".join(f"picture {index} (score {score:.2f})" for index, score in sorted(refused.items()))
    rest = "; the others are kept" if len(refused) < count else ""
    return Failed(
        message=f"the check for nudity refused {len(refused)} of {count} pictures: {named}{rest}", status=403,
        param="nsfw", code=PictureRefused.code)
