"""Control maps from pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tiny_onnx
from PIL import Image, ImageDraw

from diptych.core.control import Preprocessing
from diptych.core.errors import InvalidRequest, NotFound
from diptych.core.preprocessors import ALIASES, PREPROCESSORS, parse_preprocessor, thresholds
from diptych.preprocess import edges, fitting, networks, pose, tones
from diptych.preprocess.run import control_map

BARE = [name for name, traits in PREPROCESSORS.items() if not traits.files]
NEEDING = [name for name, traits in PREPROCESSORS.items() if traits.files]


@pytest.fixture(scope="module")
def disc() -> Image.Image:
    """A dark disc on a light ground, 96 x 64, with a dark line below."""
    picture = Image.new("RGB", (96, 64), (230, 220, 210))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 10, 66, 46), fill=(40, 30, 90))
    draw.line((8, 56, 88, 56), fill=(20, 20, 20), width=2)
    return picture


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("mode", ["resize", "crop", "fill"])
def test_every_preprocessor_gives_a_map_of_the_size_asked_for(disc: Image.Image, name: str, mode: str) -> None:
    found = control_map(disc, Preprocessing(preprocessor=name, resize_mode=mode), (64, 80), {})
    assert found.shape == (80, 64, 3)
    assert found.dtype == np.uint8
    assert found.std() > 1  # something of the picture is in it
    if PREPROCESSORS[name].binary:
        assert set(np.unique(found)) == {0, 255}


@pytest.mark.parametrize("name", [name for name in BARE if PREPROCESSORS[name].binary])
@pytest.mark.parametrize("resolution", [32, 48, 200])
def test_a_map_of_two_values_keeps_them_at_any_resolution(disc: Image.Image, name: str, resolution: int) -> None:
    how = Preprocessing(preprocessor=name, processor_res=resolution)
    assert set(np.unique(control_map(disc, how, (96, 64), {}))) == {0, 255}


def test_canny_is_opencvs(disc: Image.Image) -> None:
    pixels = np.asarray(disc)
    wanted = cv2.Canny(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 60, 120)
    how = Preprocessing(preprocessor="canny", threshold_a=60, threshold_b=120)
    found = control_map(disc, how, disc.size, {})
    assert (found == wanted[:, :, None]).all()


def test_a_picture_of_the_right_size_is_given_as_it_is(disc: Image.Image) -> None:
    assert (control_map(disc, Preprocessing(), disc.size, {}) == np.asarray(disc)).all()


def test_another_size_is_resized_as_diffusers_does(disc: Image.Image) -> None:
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor(do_convert_rgb=True, do_normalize=False)
    wanted = processor.preprocess(disc, height=40, width=56)[0].permute(1, 2, 0).numpy()
    assert np.abs(control_map(disc, Preprocessing(), (56, 40), {}) / 255.0 - wanted).max() < 1e-6


def test_transparency_is_black_in_maps_and_white_in_pictures() -> None:
    clear = Image.new("RGBA", (16, 16), (200, 10, 10, 0))
    assert control_map(clear, Preprocessing(), (16, 16), {}).max() == 0
    assert control_map(clear, Preprocessing(preprocessor="blur"), (16, 16), {}).min() == 255


def test_lines_are_found_where_they_are(disc: Image.Image) -> None:
    pixels = np.asarray(disc)
    assert edges.lineart(pixels, 6.0, 8)[56, 20:70].min() > 100
    assert edges.lineart(pixels, 6.0, 8)[2, :20].max() == 0
    assert edges.lineart(np.full((20, 20, 3), 128, np.uint8), 6.0, 8).max() == 0  # a plain picture has none
    found = np.argwhere(edges.lines(pixels, 40))
    assert len(found) >= 40
    assert np.abs(found[:, 0] - 56).max() <= 2
    soft = edges.softedge(pixels, 2.0)
    assert soft[28, 30] > 150
    assert soft[28, 48] < 60
    assert edges.softedge(np.full((20, 20, 3), 128, np.uint8), 2.0).max() == 0


def test_threshold_finds_its_own_value(disc: Image.Image) -> None:
    pixels = np.asarray(disc)
    assert (edges.threshold(pixels, 0) == edges.threshold(pixels, 127)).all()


def test_normals_of_a_slope_point_away_from_it() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).round().astype(np.uint8)[None], 64, axis=0)
    flat, sloped = tones.normals(np.full((64, 64), 200, np.uint8), 0.1), tones.normals(ramp, 0.0)
    assert (flat == (128, 128, 255)).all()
    assert sloped[32, 32, 0] > 140
    assert sloped[32, 32, 1] == 128
    assert (tones.normals(ramp, 0.5)[:, :20] == (128, 128, 255)).all()  # background faces the viewer
    lengths = np.linalg.norm(sloped / 127.5 - 1, axis=2)
    assert np.abs(lengths - 1).max() < 0.02


def test_a_wide_picture_in_a_square() -> None:
    assert fitting.inside((100, 50), (40, 40)) == (40, 20)
    assert fitting.inside((50, 100), (40, 40)) == (20, 40)
    picture = np.arange(100, dtype=np.uint8)[None, :, None].repeat(50, axis=0).repeat(3, axis=2)
    middle = fitting.cut(picture, (40, 40))
    assert middle.shape == (50, 50, 3)
    assert middle[0, :, 0].tolist() == list(range(25, 75))


def test_a_long_strip_is_not_made_enormous() -> None:
    strip = Image.new("RGB", (4, 4000), (200, 30, 30))
    assert control_map(strip, Preprocessing(resize_mode="crop"), (512, 512), {}).shape == (512, 512, 3)
    with pytest.raises(InvalidRequest, match="processor_res is 512"):
        control_map(strip, Preprocessing(preprocessor="canny", processor_res=512), (512, 512), {})


def test_borders_have_the_colour_of_the_maps_own_border() -> None:
    picture = np.full((10, 20, 3), 7, np.uint8)
    picture[4:6, 8:12] = 255
    found = fitting.bordered(picture, (20, 20))
    assert found.shape == (20, 20, 3)
    assert (found[:5] == 7).all()
    assert (found[15:] == 7).all()
    assert (found[5:15] == picture).all()


@pytest.mark.parametrize("name", NEEDING)
def test_a_missing_file_is_named(disc: Image.Image, name: str) -> None:
    with pytest.raises(NotFound, match=PREPROCESSORS[name].files[0]) as caught:
        control_map(disc, Preprocessing(preprocessor=name), (64, 64), {})
    assert caught.value.param == "preprocessor"


@pytest.mark.parametrize("name", [name for name in NEEDING if name not in ("pose", "segmentation")])
def test_models_of_one_plane(disc: Image.Image, tmp_path, name: str) -> None:
    file = PREPROCESSORS[name].files[0]
    files = {file: str(tiny_onnx.centred_model(tmp_path / file))}
    found = control_map(disc, Preprocessing(preprocessor=name), (64, 80), files)
    assert found.shape == (80, 64, 3)
    assert found.std() > 1


def test_depth_follows_the_model(disc: Image.Image, tmp_path) -> None:
    path = tiny_onnx.mean_model(tmp_path / "depth.onnx", size=(42, 42))
    found = networks.depth(networks.Network(path), np.asarray(disc))
    assert found.shape == (64, 96)
    assert found[2, 2] > 200  # the light ground is near, the dark disc far
    assert found[28, 48] < 60


def test_segmentation_has_the_colours_of_its_table(disc: Image.Image, tmp_path) -> None:
    table = tmp_path / "segmentation.csv"
    table.write_text("255,0,0\n0,255,0\n0,0,255\n")
    files = {"segmentation.onnx": str(tiny_onnx.identity_model(tmp_path / "segmentation.onnx")),
             "segmentation.csv": str(table)}
    found = control_map(disc, Preprocessing(preprocessor="segmentation"), disc.size, files)
    assert tuple(found[28, 48]) == (0, 0, 255)  # the disc is blue most of all
    table.write_text("255,0,0\n0,255,999\n")
    with pytest.raises(InvalidRequest, match=r"segmentation\.csv"):
        control_map(disc, Preprocessing(preprocessor="segmentation"), disc.size, files)
    table.write_text("1,2,3\n")
    with pytest.raises(InvalidRequest, match="at most the 1 classes"):
        control_map(disc, Preprocessing(preprocessor="segmentation"), disc.size, files)


def test_a_skeleton_is_drawn_from_the_peaks_of_both_directions() -> None:
    across, down = np.zeros((17, 128), np.float32), np.zeros((17, 128), np.float32)
    for point, (x, y) in {0: (64, 16), 5: (84, 40), 6: (44, 40), 7: (96, 80)}.items():
        across[point, x] = down[point, y] = 0.9
    points = pose._points(across, down, (64, 64))
    assert points[0].tolist() == pytest.approx([32, 8, 0.9])
    assert points[1].tolist() == pytest.approx([32, 20, 0.9])  # the neck, between the shoulders
    drawn = pose._drawn(points, 0.3, (64, 64))
    assert drawn[8, 32].tolist() == [255, 0, 0]
    assert drawn[30, 45].sum() > 100  # the upper arm
    assert drawn[60, 60].sum() == 0
    assert pose._drawn(points, 0.95, (64, 64)).max() == 0


@pytest.mark.parametrize(("make", "name", "words"), [
    (lambda path: path.write_bytes(b"no model"), "depth", "cannot be read as an ONNX model"),
    (tiny_onnx.identity_model, "depth", "no output of one channel"),
    (tiny_onnx.rows_model, "pose", "no DWPose model"),
], ids=["damaged", "three-channels", "too-few-points"])
def test_files_that_are_something_else_are_refused(disc: Image.Image, tmp_path, make, name: str, words: str) -> None:
    file = PREPROCESSORS[name].files[0]
    make(tmp_path / file)
    with pytest.raises(InvalidRequest, match=words):
        control_map(disc, Preprocessing(preprocessor=name), (32, 32), {file: str(tmp_path / file)})


def test_a1111s_names_are_known() -> None:
    assert all(parse_preprocessor(alias.upper()) == name for alias, name in ALIASES.items())
    assert parse_preprocessor("Canny") == "canny"
    assert thresholds("canny", None, 150) == (100, 150)
    with pytest.raises(InvalidRequest, match="1 to 255"):
        thresholds("canny", 0, None)
