"""The ControlNet that ships with the starter."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from control_studio import control, shown
from image_studio import Studio
from PIL import Image, ImageDraw

from diptych.core.specs import ImageSpec
from diptych.library import Library
from diptych.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CANNY = ROOT / "starter-canny"
LIMIT = 20_000_000


def test_every_installation_has_it(tmp_path: Path) -> None:
    part = Library(Settings(data_dir=tmp_path)).part("controlnet", "starter-canny")
    assert (part.family, part.path, part.license) == ("sd1", str(CANNY), "mit")
    assert sum(file.stat().st_size for file in CANNY.iterdir()) <= LIMIT


def test_its_card_tells_what_was_measured() -> None:
    figures = json.loads((CANNY / "figures.json").read_text())
    assert figures["count"] >= 50
    assert figures["f1_with"] > figures["f1_without"]
    card = (CANNY / "README.md").read_text()
    assert f"**{figures['f1_with']:.2f}**" in card
    assert f"| {figures['f1_without']:.2f} |" in card


def test_pictures_follow_the_edges(tmp_path: Path) -> None:
    """The starter paints in the middle what is asked for without a place; the edges are elsewhere."""
    edges = Image.new("RGB", (64, 64))
    ImageDraw.Draw(edges).ellipse((2, 18, 30, 46), outline=(255, 255, 255))
    edges.save(tmp_path / "edges.png")
    spec = ImageSpec(prompt="a red apple on a white background", seed=3, steps=8, count=4)
    guided = spec.model_copy(update={"controls": (control("starter-canny", weight=2.0),)})
    files = {"controlnet:starter-canny": str(CANNY), f"input:{shown(1)}": str(tmp_path / "edges.png")}
    studio = Studio(ROOT / "starter", tmp_path / "out")
    try:
        plain = studio.pictures(studio.submit(spec)[1])
        found = studio.pictures(studio.submit(guided, files=files)[1])
    finally:
        studio.engine.close()
    inside, outside = np.s_[20:44, 4:28], np.s_[20:44, 38:62]
    for without, with_control in zip(plain, found, strict=True):
        colour = [cv2.cvtColor(one, cv2.COLOR_RGB2HSV)[..., 1].astype(float) for one in (without, with_control)]
        left = [one[inside].mean() - one[outside].mean() for one in colour]
        assert left[1] > left[0], "the colour has to move to where the edges are"
