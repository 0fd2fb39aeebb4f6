"""One picture that a picture is made from: what is encoded, what is repainted, and how the result is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.canvas import CanvasOptions, Outpaint
from diptych.engines.image.canvas.colours import drawn_out, filled, matched
from diptych.engines.image.canvas.frames import (
    Box,
    Fit,
    Size,
    Wanted,
    extended,
    multiple_of,
    region_of,
    whole_size,
)
from diptych.engines.image.canvas.masks import build_mask, extension_mask

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
PAPER = (255, 255, 255)
"""What shows through a picture with transparency, as in A1111."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """What is painted on. Frozen, and the same for all pictures of a job: only `finish` needs each.

    pixels: uint8 (height, width, 3), sides in multiples of what the model needs: what is encoded.
    mask: float32 (height, width), 1 where it is repainted, 0 where it stays, between at soft edges; None: everywhere.
    latent_fill: what the latents begin with where the mask is: those of `pixels`, noise, or zeros.
    """

    pixels: Bytes
    mask: Floats | None
    latent_fill: Literal["original", "noise", "nothing"]
    _put_back: Callable[[Bytes], Bytes]

    @classmethod
    def of(
        cls, options: CanvasOptions, picture: Image.Image, mask_picture: Image.Image | None, *,
        wanted: Wanted, own_size: int, multiple: int,
    ) -> Canvas:
        """The canvas of a spec.

        Args:
            picture: `init_image`, any mode, upright. Transparent parts show white.
            mask_picture: `mask.image`.
            wanted: width and height of the spec; what is missing follows from the picture.
            own_size: the side of the pictures that the model was made for.
            multiple: of which both sides are, as the model needs it.

        Raises:
            InvalidRequest: an empty mask, or a picture too long for any size.
        """
        source = flattened(picture)
        size = (source.shape[1], source.shape[0])
        mask = build_mask(options.mask, mask_picture, size) if options.mask is not None else None
        if mask is not None and options.mask is not None and options.mask.region == "masked":
            return cls._of_region(options, source, mask, wanted, own_size, multiple)
        colours = source
        if options.outpaint is not None:
            source, mask = extend(source, mask, options.outpaint)
        return cls._of_whole(options, source, mask, colours, wanted, own_size, multiple)

    def finish(self, painted: Bytes) -> Bytes:
        """The result, of what was decoded, uint8 (height, width, 3).

        What the mask leaves alone is the picture it was, byte for byte. `painted` may be larger than `pixels` by one
        factor (where the latents were enlarged); then the picture that stays is enlarged, too. With `mask.region`
        masked the result is as large as the picture it was made from.
        """
        return self._put_back(painted)

    @classmethod
    def _of_whole(
        cls, options: CanvasOptions, source: Bytes, mask: Floats | None, colours: Bytes, wanted: Wanted,
        own_size: int, multiple: int,
    ) -> Canvas:
        size = (source.shape[1], source.shape[0])
        target = whole_size(size, wanted, own_size, exact=options.outpaint is not None)
        fit = Fit.of(size, target, options.resize_mode)
        base, alpha = fit.picture(source), None if mask is None else fit.mask(mask)
        sides = _up_to(target, multiple_of(target, multiple))
        pixels, latent_mask = extended(base, sides), None if alpha is None else extended(alpha, sides)

        def put_back(painted: Bytes) -> Bytes:
            across, down = painted.shape[1] / pixels.shape[1], painted.shape[0] / pixels.shape[0]
            shown = painted[:round(target[1] * down), :round(target[0] * across)]
            under, above = base, alpha
            if shown.shape != base.shape:
                larger = Fit.of(target, (shown.shape[1], shown.shape[0]), "resize")
                under, above = larger.picture(base), None if alpha is None else larger.mask(alpha)
            if options.color_correction:
                shown = matched(shown, colours)
            return shown if above is None else composed(under, shown, above)

        return cls._begun(options, pixels, latent_mask, put_back)

    @classmethod
    def _of_region(
        cls, options: CanvasOptions, source: Bytes, mask: Floats, wanted: Wanted, own_size: int, multiple: int,
    ) -> Canvas:
        assert options.mask is not None
        box, size = region_of(mask, options.mask.padding, wanted, own_size, multiple)
        left, top, right, bottom = box
        part = np.ascontiguousarray(source[top:bottom, left:right])
        part_mask = np.ascontiguousarray(mask[top:bottom, left:right])
        fit = Fit.of((right - left, bottom - top), size, "resize")

        def put_back(painted: Bytes) -> Bytes:
            shown = matched(painted, part) if options.color_correction else painted
            back = Fit.of((shown.shape[1], shown.shape[0]), (right - left, bottom - top), "resize")
            result: Bytes = source.copy()
            result[top:bottom, left:right] = composed(part, back.picture(shown), part_mask)
            return result

        return cls._begun(options, fit.picture(part), fit.mask(part_mask), put_back)

    @classmethod
    def _begun(
        cls, options: CanvasOptions, pixels: Bytes, mask: Floats | None, put_back: Callable[[Bytes], Bytes],
    ) -> Canvas:
        fills = {group.fill for group in (options.mask, options.outpaint) if group is not None}
        if "fill" in fills and mask is not None:
            pixels = filled(pixels, mask)
        latent: Literal["original", "noise", "nothing"] = "original"
        if "noise" in fills:
            latent = "noise"
        elif "nothing" in fills:
            latent = "nothing"
        return cls(pixels, mask, latent, put_back)


def flattened(picture: Image.Image) -> Bytes:
    """uint8 (height, width, 3), on white where it is transparent."""
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB"))
    paper = Image.new("RGBA", picture.size, (*PAPER, 255))
    return np.asarray(Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB"))


def extend(source: Bytes, mask: Floats | None, outpaint: Outpaint) -> tuple[Bytes, Floats]:
    """The picture with new parts in the colours of its edges, smoothed, and the mask of what is repainted."""
    sides: Box = (outpaint.left, outpaint.top, outpaint.right, outpaint.bottom)
    height, width = source.shape[:2]
    new = extension_mask((width, height), sides, outpaint.overlap)
    if mask is not None:
        left, top, right, bottom = sides
        new = np.maximum(new, np.pad(mask, [(top, bottom), (left, right)]))
    return drawn_out(source, sides), new


def composed(under: Bytes, above: Bytes, mask: Floats) -> Bytes:
    """`above` on `under`, uint8 (height, width, 3). Above is whole from a mask of one half on, as in A1111, so that a
    seam lies in what was painted along with its surroundings; where the mask is 0, `under` stays as it is."""
    alpha = np.minimum(2 * mask, 1)[..., None]
    mixed = np.rint(under + (above.astype(np.float32) - under) * alpha).astype(np.uint8)
    result: Bytes = np.where(alpha > 0, mixed, under)
    return result


def _up_to(size: Size, larger: Size) -> Box:
    return 0, 0, larger[0] - size[0], larger[1] - size[1]
