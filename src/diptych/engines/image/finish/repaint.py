"""Parts painted again by the engine itself: each is a small job of its own, beside all others in the batch."""

from __future__ import annotations

import hashlib
import queue
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from diptych.core.canvas import Mask
from diptych.core.cards import Card
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.events import ArtifactReady, Event, Failed, Finished
from diptych.core.finish import Detail
from diptych.core.protocol import RunRequest
from diptych.core.specs import FinishSpec, ImageSpec
from diptych.engines.image.finish.detail import Repaint

Submit = Callable[[RunRequest, Callable[[Event], None]], None]
Tell = Callable[[], None]
LOOK_SECONDS = 0.2
"""Between two looks at whether the picture is still wanted."""
_KEPT = frozenset({
    "model", "steps", "guidance", "sampler", "schedule", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "rho",
    "sigma_min", "sigma_max", "prediction_type", "zero_terminal_snr", "guidance_rescale", "clip_skip", "prompt_syntax",
    "loras", "adapters", "embeddings", "vae"})
"""Fields of the picture's spec that hold for its parts, too."""


class PaintFailed(DiptychError):
    """A part could not be painted."""

    def __init__(self, event: Failed) -> None:
        super().__init__(f"a part could not be painted again: {event.message}", param=event.param, code=event.code)
        self.status = event.status


class Repainter:
    """Gives who paints the parts of one picture.

    Args:
        submit, cancel: the engine's own.
    """

    def __init__(self, submit: Submit, cancel: Callable[[str], bool]) -> None:
        self._submit, self._cancel = submit, cancel

    def of(
        self, spec: ImageSpec | FinishSpec, index: int, seed: int, request: RunRequest, look: Tell,
    ) -> Repaint:
        """Who paints parts of picture `index` of a job. `look` is called all the while, and may raise to end it."""
        base, prompts = _base(spec, index), (spec.prompt, spec.negative_prompt)
        if isinstance(spec, ImageSpec):
            painted = spec.prompts_of(index)
            prompts = painted.prompt, painted.negative_prompt

        def repaint(pixels: np.ndarray, mask: Mask, stage: Detail) -> np.ndarray:
            values = {
                **base, "kind": "image", "seed": seed, "strength": stage.strength, "mask": mask.model_dump(),
                "prompt": stage.prompt or prompts[0],
                "negative_prompt": prompts[1] if stage.negative_prompt is None else stage.negative_prompt,
                **({} if stage.steps is None else {"steps": stage.steps})}
            with tempfile.TemporaryDirectory(prefix="diptych-detail-") as folder:
                return self._painted(pixels, values, request, Path(folder), look)

        return repaint

    def _painted(
        self, pixels: np.ndarray, values: dict[str, Any], request: RunRequest, folder: Path, look: Tell,
    ) -> np.ndarray:
        file = folder / "part.png"
        Image.fromarray(pixels).save(file, compress_level=1)
        id = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        try:
            spec = ImageSpec.model_validate({**values, "init_image": id})
        except ValidationError as error:
            raise InvalidRequest(f"finish: a part cannot be painted so: {error.errors()[0]['msg']}",
                                 param="finish") from error
        part = RunRequest(id=f"detail-{secrets.token_hex(8)}", spec=spec, output_dir=str(folder / "made"),
                          files={**request.files, f"input:{id}": str(file)}, models=_models(request),
                          share=request.share)
        events: queue.Queue[Event] = queue.Queue()
        self._submit(part, events.put)
        return _read(self._followed(part.id, events, look))

    def _followed(self, id: str, events: queue.Queue[Event], look: Tell) -> str:
        """Path of the picture that run `id` makes."""
        path = ""
        while True:
            try:
                event = events.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                try:
                    look()
                except BaseException:
                    self._cancel(id)
                    raise
                continue
            if isinstance(event, ArtifactReady):
                path = event.path
            elif isinstance(event, Failed):
                raise PaintFailed(event)
            elif isinstance(event, Finished):
                if not path:
                    raise PaintFailed(Failed(message="it was cancelled"))
                return path


def _base(spec: ImageSpec | FinishSpec, index: int) -> dict[str, Any]:
    if isinstance(spec, FinishSpec):
        return {"model": spec.model}
    return spec.model_dump(include=set(_KEPT & set(ImageSpec.model_fields)))


def _models(request: RunRequest) -> Mapping[str, Card]:
    found: Mapping[str, Card] = getattr(request, "models", {})
    return found


def _read(path: str) -> np.ndarray:
    with Image.open(path) as made:
        return np.asarray(made.convert("RGB"))
