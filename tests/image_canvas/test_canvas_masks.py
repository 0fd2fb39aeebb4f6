"""Masks: shapes by exact areas, distances and blurs against SciPy, pictures of every mode."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from pydantic import ValidationError

from diptych.core.canvas import Mask, Polygon, Rectangle, SvgPath
from diptych.core.errors import InvalidRequest
from diptych.engines.image.canvas.masks import (
    blurred,
    build_mask,
    distance,
    extension_mask,
    feathered,
    grown,
    picture_mask,
)
from diptych.engines.image.canvas.shapes import coverage, with_shapes

RANDOM = np.random.default_rng(5)
DISC = np.pi * 40**2


def drawn(d: str, size: tuple[int, int] = (100, 100), **more: object) -> np.ndarray:
    path = SvgPath.model_validate({"kind": "path", "d": d, "units": "pixels", **more})
    return with_shapes(np.zeros(size[::-1], np.float32), [path])


def test_coverage_is_exact_for_edges_on_quarters_of_pixels() -> None:
    found = coverage([np.array([(1, 1), (3.5, 1), (3.5, 2.5), (1, 2.5)])], (5, 4))
    expected = [[0, 0, 0, 0, 0], [0, 1, 1, 0.5, 0], [0, 0.5, 0.5, 0.25, 0], [0, 0, 0, 0, 0]]
    assert np.array_equal(found, np.array(expected, np.float32))


def test_shapes_may_lie_partly_or_wholly_outside() -> None:
    shape = Rectangle(kind="rectangle", units="pixels", x=-50, y=-3, width=54, height=5)
    mask = with_shapes(np.zeros((6, 8), np.float32), [shape])
    assert mask[:2, :4].all() and mask.sum() == 8
    far = shape.model_copy(update={"x": 20.0})
    assert not with_shapes(np.zeros((6, 8), np.float32), [far]).any()


def test_fractions_are_of_the_pictures_sides() -> None:
    shape = Rectangle(kind="rectangle", x=0.25, y=0.5, width=0.5, height=0.5)
    mask = with_shapes(np.zeros((10, 40), np.float32), [shape])
    assert mask[5:, 10:30].all() and mask.sum() == 5 * 20


def test_a_shape_that_erases_takes_from_those_before_it_only() -> None:
    around = Rectangle(kind="rectangle", units="pixels", x=0, y=0, width=10, height=10)
    hole = Rectangle(kind="rectangle", units="pixels", x=2, y=2, width=6, height=6, erase=True)
    dot = Rectangle(kind="rectangle", units="pixels", x=4, y=4, width=1, height=1)
    assert with_shapes(np.zeros((10, 10), np.float32), [around, hole, dot]).sum() == 100 - 36 + 1
    assert with_shapes(np.ones((10, 10), np.float32), [hole]).sum() == 64


STAR = ((50, 0), (80, 95), (2, 36), (98, 36), (20, 95))


def test_polygons_wind_and_paths_may_take_the_even_odd_rule() -> None:
    d = "M" + " ".join(f"{x},{y}" for x, y in STAR) + "z"
    full = with_shapes(np.zeros((100, 100), np.float32), [Polygon(kind="polygon", units="pixels", points=STAR)])
    assert np.array_equal(full, drawn(d))
    hollow = drawn(d, fill_rule="evenodd")
    assert full[45, 50] == 1 and hollow[45, 50] == 0 and full[5, 50] == hollow[5, 50] == 1


@pytest.mark.parametrize("d", [
    "M10 50 A40 40 0 0 1 90 50 A40 40 0 0 1 10 50 Z", "m10,50a40,40,0,1,1,80,0a40,40 0 11-80,0",
    "M90 50 A40 40 0 1 0 10 50 40 40 30 1 0 90 50", "M10 50 a 40 40 45 1 0 80 0 a4e1 .4e2 45 10-80 0z",
    "M10 50C10 27.9086 27.9086 10 50 10S90 27.9086 90 50 72.0914 90 50 90 10 72.0914 10 50z",
], ids=["A", "a-packed", "A-repeated", "a-flags-packed", "C-S"])
def test_circles_of_arcs_and_curves_have_a_circles_area(d: str) -> None:
    mask = drawn(d)
    assert abs(mask.sum() - DISC) < 0.002 * DISC
    centre = (mask.sum(axis=0) @ np.arange(100)) / mask.sum(), (mask.sum(axis=1) @ np.arange(100)) / mask.sum()
    assert np.allclose(centre, 49.5, atol=0.05)


@pytest.mark.parametrize(("d", "area"), [
    ("M10 10H60V40H10", 1500), ("M10 10h50v30h-50z", 1500), ("M10,10L60,10 60,40L10,40Z", 1500),
    ("m10 10 50 0 0 30-50 0z", 1500), ("M10 10h10v10h-10z m20 0h10v10h-10z", 200), ("M10 10h10v10h-10zh5v5h-5z", 100),
    ("M0 0 Q 30 60 60 0z", 60 * 30 * 2 / 3), ("M0 30 q 15 30 30 0 t 30 0 z", 2 * 30 * 15 * 2 / 3),
    ("M10 30 A 5 10 0 0 1 30 30 z", np.pi * 10 * 20 / 2), ("M10 20A0 5 0 0 1 30 20V30H10Z", 200),
], ids=["HV", "hv", "L", "l-after-m", "two-parts", "after-z", "Q", "T", "arc-too-small", "arc-without-radius"])
def test_paths_have_the_areas_they_draw(d: str, area: float) -> None:
    covered = drawn(d)
    assert covered.sum() == pytest.approx(area, rel=0.004)


@pytest.mark.parametrize("d", [
    "L 3 3", "M 1", "M 1 1 L 2", "M 1 1 X 3", "M0 0A1 1 0 2 0 3 3", "M0 0", "M1 1z 3 3", "M 1e9 0 L 3 3",
    "hello", "M nan 0"])
def test_a_path_that_cannot_be_read_says_where(d: str) -> None:
    with pytest.raises(ValidationError, match=r"the path (cannot be read at character|draws nothing)"):
        SvgPath(kind="path", d=d)


def test_too_intricate_shapes_are_refused() -> None:
    zigzag = tuple((float(x), 4000.0 * (x % 2)) for x in range(5000))
    with pytest.raises(InvalidRequest, match=r"mask.shapes\[0\] is too intricate"):
        with_shapes(np.zeros((4096, 64), np.float32), [Polygon(kind="polygon", units="pixels", points=zigzag)])


@pytest.mark.parametrize("reach", [1, 5, 100])
def test_distances_are_those_of_scipy_up_to_their_reach(reach: int) -> None:
    inside = RANDOM.random((37, 53)) > 0.98
    exact = scipy.ndimage.distance_transform_edt(~inside)
    assert np.allclose(distance(inside, reach), np.minimum(exact, reach + 1), atol=1e-5)
    assert (distance(np.zeros((4, 5), bool), reach) == reach + 1).all()


def test_growing_and_shrinking_are_by_a_disc() -> None:
    mask = np.zeros((41, 41), np.float32)
    mask[20, 20] = 1
    larger = grown(mask, 7)
    y, x = np.mgrid[:41, :41]
    assert np.array_equal(larger, ((y - 20) ** 2 + (x - 20) ** 2 <= 49).astype(np.float32))
    assert grown(larger, -7)[20, 20] == 1 and grown(larger, -7).sum() < 10
    assert not grown(larger, -9).any()
    soft = RANDOM.random((5, 5)).astype(np.float32)
    assert grown(soft, 0) is soft


def test_a_feather_is_a_straight_ramp_around_the_mask() -> None:
    mask = np.zeros((1, 20), np.float32)
    mask[0, 8:12] = 1
    assert np.allclose(feathered(mask, 3)[0, :9], [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1])
    assert (feathered(mask, 3)[:, 8:12] == 1).all()


@pytest.mark.parametrize("sigma", [0.5, 4.0, 12.5])
def test_blur_is_the_gaussian_of_a1111_cut_off_at_two_and_a_half_sigmas(sigma: float) -> None:
    mask = (RANDOM.random((40, 60)) > 0.7).astype(np.float32)
    radius = int(2.5 * sigma + 0.5)
    exact = scipy.ndimage.gaussian_filter(mask.astype(float), sigma, mode="nearest", radius=radius)
    assert np.allclose(blurred(mask, sigma), exact, atol=1e-6)
    point = np.zeros((1, 99), np.float32)
    point[0, 49] = 1
    reached = np.flatnonzero(blurred(point, sigma)[0])
    assert (reached[0], reached[-1]) == (49 - radius, 49 + radius)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_white_is_repainted_in_pictures_of_every_mode(mode: str) -> None:
    picture = Image.new("L", (6, 4))
    picture.paste(255, (0, 0, 3, 4))
    assert np.array_equal(picture_mask(picture.convert(mode), (6, 4)), np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0))


def test_of_a_picture_with_transparency_what_is_opaque_is_repainted() -> None:
    picture = Image.new("RGBA", (4, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    picture.putpixel((2, 0), (255, 255, 255, 51))
    assert np.allclose(picture_mask(picture, (4, 1)), [[0, 1, 0.2, 0]])


def test_a_mask_of_another_size_is_scaled_to_the_picture() -> None:
    picture = Image.new("L", (4, 4))
    picture.paste(255, (2, 0, 4, 4))
    mask = build_mask(Mask(image="x", blur=0.0), picture, (40, 20))
    assert mask.shape == (20, 40) and (mask[:, :14] == 0).all() and (mask[:, 26:] == 1).all()


def test_steps_come_in_their_order() -> None:
    shape = Rectangle(kind="rectangle", units="pixels", x=4, y=4, width=2, height=2)
    inverted = build_mask(Mask(shapes=(shape,), invert=True, grow=1, blur=0.0), None, (10, 10))
    assert not inverted[4:6, 4:6].any() or inverted.all()
    assert inverted.all()  # what is left out has two pixels: growing from all sides closes it
    assert build_mask(Mask(shapes=(shape,), invert=True, grow=-1, blur=0.0), None, (10, 10))[3, 4] == 0


@pytest.mark.parametrize("options", [
    {"shapes": [{"kind": "rectangle", "x": 2, "y": 2, "width": 1, "height": 1}]},
    {"shapes": [{"kind": "rectangle", "x": 0, "y": 0, "width": 1, "height": 1}], "invert": True},
    {"shapes": [{"kind": "rectangle", "x": 0.4, "y": 0.4, "width": 0.2, "height": 0.2}], "grow": -5},
], ids=["outside", "inverted", "shrunk"])
def test_an_empty_mask_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="mask is empty"):
        build_mask(Mask.model_validate(options), None, (20, 20))


def test_an_extension_is_masked_with_a_ramp_into_the_old() -> None:
    mask = extension_mask((6, 3), (2, 0, 0, 1), 2)
    assert mask.shape == (4, 8)
    assert np.allclose(mask[0], [1, 1, 2 / 3, 1 / 3, 0, 0, 0, 0])
    assert (mask[3] == 1).all() and np.allclose(mask[1:3, 7], [1 / 3, 2 / 3])
