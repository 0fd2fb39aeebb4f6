"""Marks that all can see, and the blurring of what nobody shall."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from diptych.core.finish import Watermark

MARGIN = 0.02
"""Of the picture's smaller side, between the mark and the edge."""
BLUR = 0.08
"""Sigma of the blur, of the picture's smaller side."""


def watermarked(pixels: np.ndarray, stage: Watermark, picture: Image.Image | None) -> np.ndarray:
    """uint8 (height, width, 3 or 4) with the mark over it; `picture` is the one that the stage names."""
    base = Image.fromarray(pixels).convert("RGBA")
    mark = _text(stage.text, base, stage.size) if stage.text is not None else _scaled(picture, base, stage.size)
    mark.putalpha(mark.getchannel("A").point(lambda value: round(value * stage.opacity)))
    layer = Image.new("RGBA", base.size)
    for place in _places(base.size, mark.size, stage.position):
        layer.paste(mark, place)
    made = Image.alpha_composite(base, layer)
    return np.asarray(made if pixels.shape[2] == 4 else made.convert("RGB"))


def blurred(pixels: np.ndarray) -> np.ndarray:
    """So far that nothing can be made out: uint8 of the same shape."""
    sigma = max(4.0, BLUR * min(pixels.shape[:2]))
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _text(text: str | None, base: Image.Image, share: float) -> Image.Image:
    """White letters with a dark edge, as wide as the share says, where that leaves them low enough for the picture."""
    assert text is not None
    measure = ImageDraw.Draw(Image.new("RGBA", (1, 1)))
    size = 40.0
    left, top, right, bottom = measure.multiline_textbbox((0, 0), text, ImageFont.load_default(size))
    fits = min(base.width * share / max(1, right - left), base.height * 0.9 / max(1, bottom - top))
    font = ImageFont.load_default(max(6.0, size * fits))
    edge = max(1, round(font.size / 16)) if isinstance(font, ImageFont.FreeTypeFont) else 1
    left, top, right, bottom = measure.multiline_textbbox((0, 0), text, font, stroke_width=edge)
    mark = Image.new("RGBA", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(mark).multiline_text(
        (-left, -top), text, font=font, fill=(255, 255, 255, 255), stroke_width=edge, stroke_fill=(0, 0, 0, 255))
    return mark


def _scaled(picture: Image.Image | None, base: Image.Image, share: float) -> Image.Image:
    assert picture is not None
    scale = min(base.width * share / picture.width, base.height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


def _places(base: tuple[int, int], mark: tuple[int, int], position: str) -> list[tuple[int, int]]:
    """Left upper corners of the mark."""
    edge = round(MARGIN * min(base))
    if position == "tiled":
        across, down = mark[0] + max(1, mark[0] // 2), mark[1] + max(1, mark[1])
        return [(x, y) for y in range(edge, base[1], down) for x in range(edge, base[0], across)]
    x = edge if "left" in position else base[0] - mark[0] - edge if "right" in position else (base[0] - mark[0]) // 2
    y = edge if "top" in position else base[1] - mark[1] - edge if "bottom" in position else (base[1] - mark[1]) // 2
    return [(x, y)]
