"""A control map from a picture, by the preprocessor's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.core.control import Preprocessing
from diptych.core.errors import NotFound, Unavailable
from diptych.core.preprocessors import PREPROCESSORS, thresholds

if TYPE_CHECKING:
    from PIL import Image

    from diptych.preprocess.edges import Pixels

FOLDER = "preprocessors"
"""Of the library, where the files of preprocessors are."""


def control_map(
    picture: Image.Image, how: Preprocessing, target: tuple[int, int], files: Mapping[str, str],
) -> Pixels:
    """The control map of a picture, RGB, uint8 (height, width, 3) of `target` (width, height).

    Transparent pixels count as black where the picture is a map already, and as white where one is made of it.

    Args:
        files: path of each of the preprocessor's files, by its name.

    Raises:
        NotFound: a file is missing; names it.
        InvalidRequest: a file is not what it should be.
        Unavailable: OpenCV is not installed.
    """
    try:
        from diptych.preprocess import fitting
    except ImportError:
        raise Unavailable("OpenCV is not installed, which preprocessors need: pip install 'diptych[image]'") from None
    pixels = _rgb(picture, white=how.preprocessor != "none")
    if how.resize_mode == "crop":
        pixels = fitting.cut(pixels, target)
    original = (pixels.shape[1], pixels.shape[0])
    fitted = fitting.inside(original, target) if how.resize_mode == "fill" else target
    at = fitted if how.processor_res is None else fitting.shorter_side(original, how.processor_res)
    made = preprocessed(fitting.scaled(pixels, at), how, files)
    return fitting.bordered(fitting.scaled(made, fitted, PREPROCESSORS[how.preprocessor].binary), target)


def preprocessed(pixels: Pixels, how: Preprocessing, files: Mapping[str, str]) -> Pixels:
    """The map of a picture at its own size, RGB. Raises as `control_map`."""
    name = how.preprocessor
    for file in PREPROCESSORS[name].files:
        if file not in files:
            raise missing(file, "preprocessor")
    a, b = thresholds(name, how.threshold_a, how.threshold_b)
    found = _computed(name, pixels, a, b, {file: Path(path) for file, path in files.items()})
    if found.ndim == 2:
        import numpy as np

        return np.repeat(found[:, :, None], 3, axis=2)
    return found


def missing(file: str, param: str) -> NotFound:
    """What a client is told when a preprocessor's file is not there; `param` is the field that asks for it."""
    return NotFound(
        f"{param} needs the file {file!r}, which is not there: put it into the folder {FOLDER!r} of the models folder "
        "(docs/control.md says what it has to be)", param=param, code="preprocessor_file_missing")


def _rgb(picture: Image.Image, white: bool) -> Pixels:
    import numpy as np
    from PIL import Image

    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255) if white else (0, 0, 0, 255))
        picture = Image.alpha_composite(ground, picture)
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _computed(name: str, pixels: Pixels, a: float, b: float, files: Mapping[str, Path]) -> Pixels:
    from diptych.preprocess import edges, tones

    plain: dict[str, Callable[[], Pixels]] = {
        "none": lambda: pixels,
        "canny": lambda: edges.canny(pixels, a, b),
        "lineart": lambda: edges.lineart(pixels, a, b),
        "softedge": lambda: edges.softedge(pixels, a),
        "scribble": lambda: edges.scribble(edges.canny(pixels, a, b)),
        "scribble_xdog": lambda: edges.xdog(pixels, a),
        "lines": lambda: edges.lines(pixels, a),
        "normal_from_depth": lambda: tones.normals(edges.grey(pixels), a),
        "tile": lambda: tones.tile(pixels, a),
        "blur": lambda: tones.blur(pixels, a),
        "invert": lambda: 255 - pixels,
        "threshold": lambda: edges.threshold(pixels, a),
    }
    return plain[name]() if name in plain else _by_model(name, pixels, a, files)


def _by_model(name: str, pixels: Pixels, a: float, files: Mapping[str, Path]) -> Pixels:
    from diptych.preprocess import edges, networks, tones
    from diptych.preprocess.pose import pose

    needed = PREPROCESSORS[name].files
    network = networks.Network(files[needed[0]])
    if name in ("depth", "normal"):
        found = networks.depth(network, pixels)
        return found if name == "depth" else tones.normals(found, a)
    if name == "pose":
        return pose(network, pixels, a)
    if name == "segmentation":
        return networks.segmentation(network, pixels, files[needed[1]])
    if name.startswith("lineart"):
        return networks.drawing(network, pixels)
    soft = networks.probability(network, pixels)
    return edges.scribble(soft) if name == "scribble_hed" else soft
