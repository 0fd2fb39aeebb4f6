"""The invisible mark: written and read back, also after JPEG; not where there is none. And marks for all to see."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import InvalidRequest
from diptych.core.finish import Watermark
from diptych.core.watermark import detect, embed
from diptych.engines.image.finish.marks import watermarked

SAMPLES = np.asarray(Image.open(Path(__file__).parents[2] / "starter" / "samples.png").convert("RGB"))
PICTURES = {"starter": SAMPLES[:200, :333], "white": np.full((64, 64, 3), 255, np.uint8),
            "noise": np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("quality", [None, 90, 75])
def test_what_is_written_is_read(name: str, quality: int | None) -> None:
    pixels = PICTURES[name]
    assert detect(pixels) is None
    marked = embed(pixels, b"diptych")
    error = np.square(marked.astype(float) - pixels).mean()
    assert 10 * np.log10(255**2 / error) > 33
    if quality is not None:
        buffer = io.BytesIO()
        Image.fromarray(marked).save(buffer, "JPEG", quality=quality)
        marked = np.asarray(Image.open(buffer).convert("RGB"))
    assert detect(marked) == b"diptych"


@pytest.mark.parametrize("payload", [b"x", "Grüße".encode(), bytes(range(32))])
def test_any_bytes_and_transparency(payload: bytes) -> None:
    pixels = np.dstack([SAMPLES[:256, :256], np.random.default_rng(2).integers(0, 256, (256, 256), dtype=np.uint8)])
    marked = embed(pixels, payload)
    assert detect(marked) == payload and np.array_equal(marked[..., 3], pixels[..., 3])


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InvalidRequest, match="1 to 32"):
        embed(SAMPLES, b"x" * 33)
    with pytest.raises(InvalidRequest, match="7x64 has room for 0 bits"):
        embed(SAMPLES[:64, :7], b"x")
    assert detect(SAMPLES[:4, :4]) is None


@pytest.mark.parametrize(("position", "corner"), [
    ("top-left", (0, 0)), ("top-right", (0, 1)), ("bottom-left", (1, 0)), ("bottom-right", (1, 1))])
def test_marks_are_where_they_belong(position: str, corner: tuple[int, int]) -> None:
    pixels = np.full((120, 160, 3), 128, np.uint8)
    made = watermarked(pixels, Watermark.model_validate(
        {"kind": "watermark", "text": "Diptych", "position": position, "opacity": 1.0}), None)
    changed = (made != pixels).any(-1)
    rows, columns = np.nonzero(changed)
    assert ((rows.mean() > 60), (columns.mean() > 80)) == (bool(corner[0]), bool(corner[1]))
    assert 30 <= columns.max() - columns.min() <= 48  # a quarter of the width, with its edge


def test_a_picture_as_mark_with_its_transparency() -> None:
    mark = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    mark.paste((0, 0, 0, 0), (0, 0, 10, 20))
    pixels = np.zeros((100, 100, 3), np.uint8)
    stage = Watermark(kind="watermark", picture="x", position="center", size=0.2, opacity=0.5)
    made = watermarked(pixels, stage, mark)
    assert tuple(made[50, 56]) == (128, 0, 0) and not made[:, :49].any() and made[..., 1:].max() == 0
    tiled = watermarked(pixels, stage.model_copy(update={"position": "tiled"}), mark)
    assert (tiled[..., 0] > 0).sum() > 3 * (made[..., 0] > 0).sum()
