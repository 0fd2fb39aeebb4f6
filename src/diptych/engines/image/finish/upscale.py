"""A picture made larger or smaller: by a filter, or by a network and then a filter to the exact size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from diptych.core.errors import InvalidRequest
from diptych.core.finish import Upscale
from diptych.engines.image.finish.tiles import Tell, in_tiles
from diptych.engines.image.finish.upscalers import Upscaler, rounds_of

MAX_PIXELS = 8192 * 8192
"""Of a result, and of what a network makes on the way to it: 192 MiB."""
_FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def resized(pixels: np.ndarray, size: tuple[int, int], name: str = "lanczos") -> np.ndarray:
    """uint8 (height, width, 3 or 4) at `size` (width, height) by one of Pillow's filters. Colours of transparent
    pixels do not bleed into others."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, _FILTERS[name]))


def upscaled(
    pixels: np.ndarray, stage: Upscale, load: Callable[[], Upscaler], tell: Tell, *, param: str = "finish",
) -> np.ndarray:
    """uint8 (height, width, 3 or 4) as the stage wants it.

    Args:
        load: gives the network, where the stage names one.

    Raises:
        InvalidRequest: the result would be too large, with the numbers.
    """
    height, width = pixels.shape[:2]
    size = stage.size(width, height)
    _check(size, f"{param}: the result", param)
    if stage.is_filter:
        return resized(pixels, size, stage.model)
    return by_network(pixels, size, load(), tell, param=param)


def by_network(
    pixels: np.ndarray, size: tuple[int, int], network: Upscaler, tell: Tell, *, param: str = "finish",
) -> np.ndarray:
    """uint8 (height, width, 3 or 4) at `size` (width, height): the network as often as it takes, then Lanczos."""
    height, width = pixels.shape[:2]
    rounds = rounds_of(network.scale, max(size[0] / width, size[1] / height))
    grown = network.scale ** rounds
    _check((width * grown, height * grown), f"{param}: {width}x{height} pixels, made {grown} times as large a side by "
           "the model before it is brought to the size that is asked for,", param)
    colours = _bled(pixels)
    # Every round has scale² times as much to do as the one before.
    work = [network.scale ** (2 * number) for number in range(rounds)]
    for number in range(rounds):
        before = sum(work[:number])

        def told(share: float, before: int = before, this: int = work[number]) -> None:
            tell((before + share * this) / sum(work))

        colours = in_tiles(colours, network.scale, network, told)
    made = resized(colours, size)
    if pixels.shape[2] == 3:
        return made
    alpha = Image.fromarray(np.ascontiguousarray(pixels[..., 3])).resize(size, Image.Resampling.BICUBIC)
    return np.dstack([made, np.asarray(alpha)])


def _bled(pixels: np.ndarray) -> np.ndarray:
    """RGB, with the colours around in place of those that cannot be seen: a network would draw them into the edge."""
    if pixels.shape[2] == 3 or bool((pixels[..., 3] == 255).all()):
        return np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:].astype(np.float32) / 255
    blur = ImageFilter.GaussianBlur(4)
    near = np.asarray(Image.fromarray((pixels[..., :3] * alpha).round().astype(np.uint8)).filter(blur), np.float32)
    weight = np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., 3])).filter(blur), np.float32)[..., None] / 255
    around = np.where(weight > 0.02, near / np.maximum(weight, 0.02), 127.0)
    return np.asarray((pixels[..., :3] * alpha + around * (1 - alpha)).round().clip(0, 255), np.uint8)


def _check(size: tuple[int, int], what: str, param: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InvalidRequest(
            f"{what} is {size[0]}x{size[1]}, more than {MAX_PIXELS} pixels: ask for a smaller factor", param=param)
