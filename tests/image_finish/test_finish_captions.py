"""Captions of pictures by the image model itself."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from image_studio import Studio
from PIL import Image

from diptych.core.events import Data, Failed, Finished
from diptych.core.specs import ImageSpec, InterrogateSpec
from diptych.engines.image.finish.captions import CaptionRanker
from diptych.engines.image.model import Pass
from diptych.engines.image.prompting import plain_texts

CAPTIONS = ("a strawberry", "a blue car", "a snowman", "a lion")


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_the_starter_knows_what_it_painted(atelier: Studio) -> None:
    painted = atelier.picture(ImageSpec(prompt="a strawberry on a yellow background", steps=12, seed=1))
    other = atelier.submit(ImageSpec(prompt="a lion", steps=6))[1]  # its steps go on meanwhile
    _, recorder = atelier.submit(InterrogateSpec(picture=png(painted), captions=CAPTIONS, samples=6))
    assert isinstance(recorder.last(), Finished), recorder.events
    (data,) = recorder.of(Data)
    ranked = data.value["captions"]
    assert ranked[0]["caption"] == "a strawberry" and {one["caption"] for one in ranked} == set(CAPTIONS)
    assert [one["error"] for one in ranked] == sorted(one["error"] for one in ranked)
    assert isinstance(other.last(), Finished)


def test_the_error_is_that_of_the_prediction(atelier: Studio) -> None:
    """One sample, computed once more by hand."""
    model = atelier.engine._model
    assert model is not None
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        ranker = CaptionRanker(model, lambda work: work(), lambda: None)
        ((_, error),) = ranker.rank(pixels, ["a lion"], 1, 3)
        generator = torch.Generator().manual_seed(3)
        latents = model.encode_picture(pixels).mean
        noise = torch.randn(latents.shape, generator=generator)
        when = torch.tensor([round(0.5 * 999)])
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[when]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        made = model.predict(Pass(noisy, when, model.encode(plain_texts("a lion")).positive, torch.ones(1)))
        wanted = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    assert error == pytest.approx(float((made - wanted).square().mean()), rel=1e-4)


def test_what_cannot_be_asked(atelier: Studio) -> None:
    _, recorder = atelier.submit(InterrogateSpec(picture="AAAA", captions=("x",)))
    last = recorder.last()
    assert isinstance(last, Failed) and last.status == 400 and last.param == "picture"
