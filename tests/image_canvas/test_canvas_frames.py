"""Sizes, regions, colours, and the whole way of a canvas: what must stay stays byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.canvas import CanvasOptions
from diptych.core.errors import InvalidRequest
from diptych.engines.image.canvas import Canvas
from diptych.engines.image.canvas.colours import filled, matched, to_lab, to_rgb
from diptych.engines.image.canvas.frames import Fit, region_of, whole_size

RANDOM = np.random.default_rng(6)


def noise(width: int, height: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def canvas(
    picture: np.ndarray | Image.Image, options: dict[str, Any], mask: Image.Image | None = None,
    wanted: tuple[int | None, int | None] = (None, None), own: int = 64, multiple: int = 8,
) -> Canvas:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    return Canvas.of(CanvasOptions.model_validate({"init_image": "x", **options}), image, mask, wanted=wanted,
                     own_size=own, multiple=multiple)


def box(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    return {"kind": "rectangle", "units": "pixels", "x": x, "y": y, "width": width, "height": height}


# Sizes

@pytest.mark.parametrize(("source", "wanted", "exact", "size"), [
    ((64, 64), (None, None), False, (64, 64)), ((70, 50), (None, None), False, (70, 50)),
    ((640, 640), (None, None), False, (64, 64)), ((20, 20), (None, None), False, (64, 64)),
    ((400, 100), (None, None), False, (128, 32)), ((400, 100), (None, None), True, (400, 100)),
    ((400, 100), (128, 64), True, (128, 64)), ((400, 100), (128, None), False, (128, 32)),
    ((400, 100), (None, 64), False, (256, 64)),
])
def test_the_size_of_a_result(source: Any, wanted: Any, exact: bool, size: Any) -> None:
    assert whole_size(source, wanted, 64, exact=exact) == size


@pytest.mark.parametrize(("source", "wanted"), [((30_000, 1), (None, None)), ((1, 30_000), (64, None))])
def test_a_side_that_would_be_too_long_is_refused(source: Any, wanted: Any) -> None:
    with pytest.raises(InvalidRequest, match="at most 4096"):
        whole_size(source, wanted, 512, exact=False)


def test_resizing_stretches_cuts_off_or_draws_edges_out() -> None:
    halves = np.zeros((20, 40, 3), np.uint8)
    halves[:, 20:] = 200
    stretched = Fit.of((40, 20), (20, 20), "resize").picture(halves)
    assert stretched.shape == (20, 20, 3) and stretched[10, 2, 0] == 0 and stretched[10, 17, 0] == 200
    cut = Fit.of((40, 20), (20, 20), "crop")
    assert cut.box == (10, 0, 30, 20) and np.array_equal(cut.picture(halves), halves[:, 10:30])
    drawn = Fit.of((40, 20), (40, 40), "fill")
    assert drawn.added == (0, 10, 0, 10) and np.array_equal(drawn.picture(halves)[10:30], halves)
    assert (drawn.picture(halves)[0] == halves[0]).all()
    for mode in ("resize", "crop", "fill"):
        same = noise(24, 16)
        assert np.array_equal(Fit.of((24, 16), (24, 16), mode).picture(same), same)  # type: ignore[arg-type]


def mask_of(width: int, height: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(("mask", "padding", "wanted", "part", "size"), [
    (mask_of(200, 100, 50, 40, 70, 60), 6, (None, None), (44, 34, 76, 66), (64, 64)),
    (mask_of(200, 100, 50, 40, 70, 60), 6, (64, 32), (28, 34, 92, 66), (64, 32)),
    (mask_of(200, 100, 0, 0, 20, 20), 6, (64, 32), (0, 0, 52, 26), (64, 32)),
    (mask_of(200, 100, 190, 90, 200, 100), 10, (None, None), (180, 80, 200, 100), (64, 64)),
    (mask_of(200, 100, 0, 45, 200, 50), 0, (None, None), (0, 23, 200, 73), (128, 32)),
    (mask_of(200, 100, 0, 0, 200, 100), 32, (None, 64), (0, 0, 200, 100), (128, 64)),
])
def test_the_region_of_a_mask(mask: Any, padding: int, wanted: Any, part: Any, size: Any) -> None:
    assert region_of(mask, padding, wanted, 64, 8) == (part, size)


# Colours

def test_holes_take_the_colours_around() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = (200, 100, 50)
    hole = mask_of(64, 64, 16, 16, 48, 48)
    spoiled = picture.copy()
    spoiled[hole > 0] = (0, 255, 0)
    found = filled(spoiled, hole)
    assert np.array_equal(found[hole == 0], picture[hole == 0])
    assert (np.abs(found[32, 17].astype(int) - (0, 0, 0)) < 40).all()
    assert (np.abs(found[32, 46].astype(int) - (200, 100, 50)) < 40).all()
    assert (np.diff(found[32, 16:48, 0].astype(int)) >= 0).all()
    flat = np.full((33, 17, 3), 77, np.uint8)
    assert np.array_equal(filled(np.where(mask_of(17, 33, 1, 1, 17, 30)[..., None] > 0, 255, flat).astype(np.uint8),
                                 mask_of(17, 33, 1, 1, 17, 30)), flat)


def test_a_soft_mask_is_filled_by_its_share_and_a_full_one_left_alone() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    picture[4, 4] = 200
    mask = np.zeros((8, 8), np.float32)
    mask[4, 4] = 0.5
    assert 140 < filled(picture, mask)[4, 4, 0] < 190
    assert np.array_equal(filled(picture, np.ones((8, 8), np.float32)), picture)


def test_lab_has_the_values_of_the_cie_and_comes_back() -> None:
    known = {(255, 255, 255): (100, 0, 0), (255, 0, 0): (53.24, 80.09, 67.20), (0, 0, 255): (32.30, 79.19, -107.86),
             (0, 0, 0): (0, 0, 0)}  # CIE L*a*b*, D65, as Lindbloom's calculator has them
    for rgb, lab in known.items():
        assert np.allclose(to_lab(np.array(rgb, np.uint8)), lab, atol=0.02)
    picture = noise(50, 40)
    assert np.array_equal(to_rgb(to_lab(picture)), picture)


def test_colours_are_matched_and_lightness_stays() -> None:
    gray = np.repeat(RANDOM.integers(40, 200, (32, 32, 1), dtype=np.uint8), 3, axis=2)
    warm = to_rgb(np.stack([RANDOM.uniform(40, 60, (24, 40)), RANDOM.uniform(10, 20, (24, 40)),
                            RANDOM.uniform(15, 25, (24, 40))], axis=-1))
    result = to_lab(matched(gray, warm))
    assert np.allclose(result[..., 0], to_lab(gray)[..., 0], atol=1)
    assert np.allclose(result[..., 1:].mean((0, 1)), to_lab(warm)[..., 1:].mean((0, 1)), atol=1)
    assert np.array_equal(matched(warm, warm), warm)


# Canvases

def test_a_plain_picture_is_itself() -> None:
    picture = noise(64, 48)
    found = canvas(picture, {})
    assert np.array_equal(found.pixels, picture) and found.mask is None and found.latent_fill == "original"
    painted = noise(64, 48)
    assert np.array_equal(found.finish(painted), painted)


def test_a_size_between_multiples_is_painted_larger_and_cut() -> None:
    picture = noise(61, 50)
    found = canvas(picture, {"mask": {"shapes": [box(0, 0, 10, 10)], "blur": 0}})
    assert found.pixels.shape == (56, 64, 3) and np.array_equal(found.pixels[:50, :61], picture)
    assert (found.pixels[50:, :61] == picture[-1]).all()
    painted = noise(64, 56)
    result = found.finish(painted)
    assert result.shape == (50, 61, 3)
    assert np.array_equal(result[:10, :10], painted[:10, :10])
    result[:10, :10] = picture[:10, :10]
    assert np.array_equal(result, picture)


@pytest.mark.parametrize("options", [
    {"blur": 0}, {"blur": 4}, {"blur": 0, "feather": 7}, {"blur": 2, "feather": 3, "grow": 2}], ids=str)
@pytest.mark.parametrize("region", ["whole", "masked"])
def test_outside_of_the_soft_edge_nothing_changes(options: dict[str, Any], region: str) -> None:
    picture = noise(64, 64)
    found = canvas(picture, {"mask": {"shapes": [box(20, 24, 16, 10)], "region": region, "padding": 4, **options}})
    result = found.finish(noise(found.pixels.shape[1], found.pixels.shape[0]))
    reach = options.get("grow", 0) + options.get("feather", 0) + int(2.5 * options["blur"] + 0.5)
    changed = np.any(result != picture, axis=2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert result.shape == picture.shape and changed[24:34, 20:36].mean() > 0.95
    assert rows[0] >= 24 - reach and rows[-1] < 34 + reach and columns[0] >= 20 - reach and columns[-1] < 36 + reach


def test_a_masked_region_is_painted_large_and_put_back() -> None:
    picture = noise(300, 200)
    found = canvas(picture, {"mask": {"shapes": [box(100, 80, 24, 24)], "region": "masked", "padding": 4, "blur": 0}})
    assert found.pixels.shape == (64, 64, 3) and found.mask is not None
    assert found.mask[32, 32] == 1 and found.mask[0, 0] == 0
    result = found.finish(np.full((64, 64, 3), 9, np.uint8))
    assert (result[80:104, 100:124] == 9).all()
    result[80:104, 100:124] = picture[80:104, 100:124]
    assert np.array_equal(result, picture)


def test_what_was_painted_larger_is_joined_with_the_picture_enlarged() -> None:
    picture = noise(61, 50)
    found = canvas(picture, {"mask": {"shapes": [box(0, 0, 30, 50)], "blur": 0}})
    result = found.finish(np.full((112, 128, 3), 7, np.uint8))
    assert result.shape == (100, 122, 3) and (result[:, :58] == 7).all()
    enlarged = np.asarray(Image.fromarray(picture).resize((122, 100), Image.Resampling.LANCZOS))
    assert np.array_equal(result[:, 62:], enlarged[:, 62:])


@pytest.mark.parametrize(("side", "shape", "old"), [
    ("left", (32, 56), np.s_[:, 24:]), ("right", (32, 56), np.s_[:, :32]), ("top", (56, 32), np.s_[24:]),
    ("bottom", (56, 32), np.s_[:32])])
def test_a_picture_is_extended_on_each_side(side: str, shape: tuple[int, int], old: Any) -> None:
    picture = noise(32, 32)
    found = canvas(picture, {"outpaint": {side: 24, "overlap": 0}})
    assert found.pixels.shape == (*shape, 3) and np.array_equal(found.pixels[old], picture)
    assert found.mask is not None and (found.mask[old] == 0).all() and found.mask.mean() == pytest.approx(24 / 56)
    painted = noise(*shape[::-1])
    result = found.finish(painted)
    assert np.array_equal(result[old], picture)
    assert np.array_equal(result[found.mask == 1], painted[found.mask == 1])


def test_an_extension_fades_into_the_old_and_keeps_the_rest() -> None:
    picture = noise(32, 32)
    found = canvas(picture, {"outpaint": {"left": 8, "bottom": 5, "overlap": 6, "fill": "noise"}})
    assert found.latent_fill == "noise" and found.pixels.shape == (40, 40, 3)
    result = found.finish(noise(40, 40))
    assert result.shape == (37, 40, 3)
    assert np.array_equal(result[:32 - 6, 8 + 6:], picture[:-6, 6:])


def test_an_extension_begins_with_the_colours_of_its_edge() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = (250, 10, 10)
    picture[8:, 16:] = (10, 10, 250)
    found = canvas(picture, {"outpaint": {"right": 24, "top": 8}})
    assert np.array_equal(found.pixels[8:, :32], picture)
    new = found.pixels[8:, 32:].astype(int)
    assert np.array_equal(new[:, 0], picture[:, -1]) and (new[20:] == (10, 10, 250)).all()
    assert (np.diff(new[:, -1, 0]) <= 0).all() and 0 < new[8, -1, 0] < 250  # sharp at the edge, softer farther out
    assert (found.pixels[0, 24:] == (250, 10, 10)).all()


def test_a_mask_and_an_extension_go_together() -> None:
    picture = noise(32, 32)
    found = canvas(picture, {"outpaint": {"left": 8, "overlap": 0},
                             "mask": {"shapes": [box(20, 20, 4, 4)], "blur": 0, "fill": "fill"}})
    assert found.mask is not None and found.mask.sum() == 32 * 8 + 16
    assert (found.mask[20:24, 28:32] == 1).all()


def test_filling_is_of_what_is_encoded_only() -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    picture[20:30, 20:30] = (0, 255, 0)
    options = {"shapes": [box(20, 20, 10, 10)], "blur": 0, "fill": "fill"}
    found = canvas(picture, {"mask": options})
    assert (found.pixels == 90).all() and found.latent_fill == "original"
    assert canvas(picture, {"mask": {**options, "fill": "nothing"}}).latent_fill == "nothing"
    assert np.array_equal(canvas(picture, {"mask": {**options, "fill": "nothing"}}).pixels, picture)


def test_transparent_parts_show_white() -> None:
    picture = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    picture.paste((0, 100, 0, 255), (0, 0, 32, 64))
    found = canvas(picture, {})
    assert (found.pixels[:, :32] == (0, 100, 0)).all() and (found.pixels[:, 32:] == 255).all()


def test_colours_are_corrected_before_the_rest_is_put_back() -> None:
    picture = np.full((64, 64, 3), (180, 120, 90), np.uint8)
    found = canvas(picture, {"mask": {"shapes": [box(0, 0, 32, 64)], "blur": 0}, "color_correction": True})
    result = found.finish(np.full((64, 64, 3), (90, 120, 180), np.uint8))
    assert np.array_equal(result[:, 32:], picture[:, 32:])
    assert np.allclose(to_lab(result[5, 5])[1:], to_lab(picture[5, 5])[1:], atol=1.5)


@pytest.mark.parametrize(("options", "field"), [
    ({"mask": {"shapes": [box(0, 0, 4, 4)]}}, "mask"), ({"outpaint": {"left": 3}}, "outpaint"),
    ({"color_correction": True}, "color_correction"),
    ({"init_image": "x", "outpaint": {"top": 3}, "mask": {"shapes": [box(0, 0, 4, 4)], "region": "masked"}},
     "mask.region"),
    ({"init_image": "x", "outpaint": {"top": 3, "fill": "noise"}, "mask": {"shapes": [box(0, 0, 4, 4)]}},
     "outpaint.fill"),
])
def test_options_that_do_not_go_together_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        CanvasOptions.model_validate(options)
    assert told.value.param == field
