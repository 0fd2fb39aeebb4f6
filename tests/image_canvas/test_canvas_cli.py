"""What `diptych image` makes of its options for pictures from pictures."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.cli.errors import CliError
from diptych.cli.image_options import mask_fields, outpaint_fields, shape_of
from diptych.core.canvas import Mask, Outpaint


@pytest.mark.parametrize(("text", "shape"), [
    ("rect:0.1,.2,0.5,0.5", {"kind": "rectangle", "x": 0.1, "y": 0.2, "width": 0.5, "height": 0.5}),
    ("!rect: 0 0 1 1", {"kind": "rectangle", "x": 0, "y": 0, "width": 1, "height": 1, "erase": True}),
    ("polygon:0,0 1,0 1,1", {"kind": "polygon", "points": [(0, 0), (1, 0), (1, 1)]}),
    ("path:M0 0h1v1z", {"kind": "path", "d": "M0 0h1v1z"}),
])
def test_shapes(text: str, shape: dict[str, Any]) -> None:
    assert shape_of(text) == shape
    Mask.model_validate({"shapes": [shape]})


@pytest.mark.parametrize("text", ["", "rect", "rect:1,2,3", "rect:1,2,3,x", "polygon:0,0,1,1", "polygon:1,2,3,4,5,6,7",
                                  "path:", "circle:1,1,1", "rect:1;2;3;4"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(CliError, match="--mask-shape"):
        shape_of(text)


@pytest.mark.parametrize(("texts", "found"), [
    (["left=64"], {"left": 64}), (["left=64,right=32", "fill=noise"], {"left": 64, "right": 32, "fill": "noise"}),
    (["top=1, bottom=2, overlap=0"], {"top": 1, "bottom": 2, "overlap": 0}),
])
def test_sides(texts: list[str], found: dict[str, Any]) -> None:
    assert outpaint_fields(texts) == found
    Outpaint.model_validate(found)


@pytest.mark.parametrize("text", ["64", "left", "left=", "left=x", "left=-1", "up=3", "left=1,left=2", "left=1,,top=2"])
def test_sides_that_are_none(text: str) -> None:
    with pytest.raises(CliError, match="--outpaint"):
        outpaint_fields([text])


def test_a_masks_options_go_together() -> None:
    found = mask_fields(None, ["rect:1,2,3,4"], True, True, 12, blur=2.0, grow=None, fill="noise")
    mask = Mask.model_validate(found)
    assert (mask.region, mask.padding, mask.invert, mask.blur, mask.fill, mask.shapes[0].units) == (
        "masked", 12, True, 2.0, "noise", "pixels")
    assert mask_fields(None, None, False, False, None, blur=None) == {}
    with pytest.raises(CliError, match="need --mask"):
        mask_fields(None, None, False, False, None, blur=2.0)
