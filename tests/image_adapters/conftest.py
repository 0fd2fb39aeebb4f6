"""One engine with the model that ships, and one pipeline of diffusers with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from image_studio import Studio

from diptych.core.specs import ImageSpec

STARTER = Path(__file__).parents[2] / "starter"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(STARTER, tmp_path_factory.mktemp("adapted"))
    yield studio
    studio.engine.close()


@pytest.fixture(scope="session")
def pipe() -> StableDiffusionPipeline:
    made = StableDiffusionPipeline.from_pretrained(STARTER, torch_dtype=torch.float32, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    made.scheduler = EulerDiscreteScheduler.from_config(made.scheduler.config)
    return made


@pytest.fixture(scope="session")
def painted(pipe: StableDiffusionPipeline) -> Callable[[ImageSpec], np.ndarray]:
    """The picture that diffusers' pipeline makes of a spec, as it is at the moment."""

    def paint(spec: ImageSpec, prompt: str | None = None) -> np.ndarray:
        picture: Any = pipe(
            prompt or spec.prompt, negative_prompt=spec.negative_prompt, num_inference_steps=spec.steps,
            guidance_scale=spec.guidance, generator=torch.Generator("cpu").manual_seed(spec.seed)).images[0]
        return np.asarray(picture)

    return paint
