"""An engine that holds the tiny model, and ways to ask it for controlled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from image_studio import Recorder, Studio
from PIL import Image
from tiny_controls import SIZE

from diptych.core.control import Control
from diptych.core.protocol import RunRequest
from diptych.core.specs import ImageSpec

STEPS = 4


def shown(number: int) -> str:
    """The id of a picture that was sent."""
    return f"sha256:{number:064d}"


def control(model: str, picture: int = 1, **fields: Any) -> Control:
    return Control(model=model, image=shown(picture), **fields)


def spec_of(*controls: Control, seed: int = 5, **fields: Any) -> ImageSpec:
    return ImageSpec(**{
        "prompt": "a red cat", "negative_prompt": "blue", "seed": seed, "steps": STEPS, "guidance": 4.0,
        "width": SIZE, "height": SIZE, "controls": controls, **fields})


class ControlStudio(Studio):
    """See `Studio`; what specs name is in the folder `parts`, pictures are sent beforehand."""

    def __init__(self, parts: Path, out: Path) -> None:
        super().__init__(parts / "base", out, image_batch=8)
        self.parts = parts
        self.sent: dict[str, str] = {}

    def send(self, number: int, picture: Image.Image) -> Image.Image:
        path = self.out / f"sent-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        self.sent[shown(number)] = str(path)
        return picture

    def run(self, spec: ImageSpec) -> Recorder:
        """Submit a spec, with the paths of all that it names."""
        self._count += 1
        files = {reference.key: self.sent[reference.id] if reference.kind == "input" else str(self.parts / reference.id)
                 for reference in spec.references()}
        recorder = Recorder()
        self.engine.submit(RunRequest(id=f"control-{self._count}", spec=spec, files=files,
                                      output_dir=str(self.out / f"control-{self._count}")), recorder)
        return recorder

    def controlled(self, *controls: Control, **fields: Any) -> np.ndarray:
        return self.pictures(self.run(spec_of(*controls, **fields)))[0]
