"""Names of preprocessors as A1111's users know them, what each takes and what it needs. `diptych.preprocess` computes
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.core.errors import InvalidRequest


@dataclass(frozen=True)
class Threshold:
    """One of a preprocessor's two numbers."""

    what: str
    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Preprocessor:
    """`files`: what it needs in the library's folder of preprocessors, ONNX models most of all. `binary`: its maps have
    two values, and keep them when they are resized."""

    about: str
    a: Threshold | None = None
    b: Threshold | None = None
    files: tuple[str, ...] = ()
    binary: bool = False


_DEPTH = ("depth.onnx",)
_HED = ("hed.onnx",)

PREPROCESSORS: dict[str, Preprocessor] = {
    "none": Preprocessor("the picture as it is: it is a control map already"),
    "canny": Preprocessor("Canny's edges (OpenCV)", Threshold("low threshold", 100, 1, 255),
                          Threshold("high threshold", 200, 1, 255), binary=True),
    "lineart": Preprocessor("dark lines against their surroundings, without a model (OpenCV)",
                            Threshold("sigma of the surroundings in pixels", 6.0, 0.1, 32.0),
                            Threshold("darker by so much at least", 8, 0, 64)),
    "lineart_realistic": Preprocessor("line drawing by a model", files=("lineart.onnx",)),
    "lineart_coarse": Preprocessor("coarse line drawing by a model", files=("lineart_coarse.onnx",)),
    "lineart_anime": Preprocessor("line drawing of anime by a model", files=("lineart_anime.onnx",)),
    "softedge": Preprocessor("soft edges: gradients of the blurred picture, without a model (OpenCV)",
                             Threshold("sigma of the blur in pixels", 2.0, 0.1, 16.0)),
    "softedge_hed": Preprocessor("soft edges by a HED model", files=_HED),
    "softedge_pidinet": Preprocessor("soft edges by a PiDiNet model", files=("pidinet.onnx",)),
    "scribble": Preprocessor("thick strokes along Canny's edges, without a model (OpenCV)",
                             Threshold("low threshold", 100, 1, 255), Threshold("high threshold", 200, 1, 255),
                             binary=True),
    "scribble_xdog": Preprocessor("strokes by an extended difference of Gaussians, without a model (OpenCV)",
                                  Threshold("threshold", 32, 1, 64), binary=True),
    "scribble_hed": Preprocessor("thick strokes along the edges of a HED model", files=_HED, binary=True),
    "lines": Preprocessor("straight line segments (OpenCV's detector)",
                          Threshold("shortest segment in pixels", 8, 0, 512), binary=True),
    "depth": Preprocessor("depth by a MiDaS or Depth Anything model: near is white", files=_DEPTH),
    "normal": Preprocessor("surface normals from the depth of a model",
                           Threshold("depth below which it is background", 0.1, 0.0, 1.0), files=_DEPTH),
    "normal_from_depth": Preprocessor("surface normals from a picture that is a depth map already",
                                      Threshold("depth below which it is background", 0.1, 0.0, 1.0)),
    "pose": Preprocessor("skeletons by a DWPose model", Threshold("least confidence", 0.3, 0.0, 1.0),
                         files=("dwpose.onnx",)),
    "segmentation": Preprocessor("regions by a model; the second file has red, green and blue of each class",
                                 files=("segmentation.onnx", "segmentation.csv")),
    "tile": Preprocessor("the picture with its detail taken away by scaling it down and up",
                         Threshold("how far it is scaled down", 1.0, 1.0, 8.0)),
    "blur": Preprocessor("the picture blurred", Threshold("sigma in pixels", 9.0, 0.1, 64.0)),
    "invert": Preprocessor("black and white exchanged: for dark lines on a light ground"),
    "threshold": Preprocessor("white where it is lighter than a value, black elsewhere",
                              Threshold("value; 0: found in the picture (Otsu)", 127, 0, 255), binary=True),
}

ALIASES: Mapping[str, str] = {
    "": "none", "hed": "softedge_hed", "softedge_hedsafe": "softedge_hed", "pidinet": "softedge_pidinet",
    "softedge_pidisafe": "softedge_pidinet", "softedge_pidi": "softedge_pidinet", "lineart_standard": "lineart",
    "lineart_standard (from white bg & black line)": "lineart", "depth_midas": "depth", "depth_anything": "depth",
    "depth_anything_v2": "depth", "midas": "depth", "normal_midas": "normal", "normalmap": "normal",
    "openpose": "pose", "dw_openpose_full": "pose", "openpose_full": "pose", "dwpose": "pose",
    "seg_ofade20k": "segmentation", "seg_ufade20k": "segmentation", "seg": "segmentation",
    "tile_resample": "tile", "blur_gaussian": "blur", "invert (from white bg & black line)": "invert",
    "mlsd": "lines", "fake_scribble": "scribble_hed", "xdog": "scribble_xdog", "binary": "threshold",
}


def parse_preprocessor(name: str) -> str:
    """The name used here for what a client sent, A1111's names among them.

    Raises:
        InvalidRequest: unknown.
    """
    folded = name.strip().casefold().replace("-", "_")
    found = ALIASES.get(folded, folded)
    if found not in PREPROCESSORS:
        raise InvalidRequest(
            f"preprocessor {name[:100]!r} is unknown; known: {', '.join(PREPROCESSORS)}", param="preprocessor")
    return found


def thresholds(name: str, a: float | None, b: float | None) -> tuple[float, float]:
    """Both numbers of a preprocessor, its own where they are not given; 0 for one that it does not have.

    Raises:
        InvalidRequest: a number that it has no use for, or out of its range.
    """
    traits = PREPROCESSORS[name]
    return _number(name, "threshold_a", traits.a, a), _number(name, "threshold_b", traits.b, b)


def _number(name: str, field: str, threshold: Threshold | None, value: float | None) -> float:
    if threshold is None:
        if value is None:
            return 0.0
        raise InvalidRequest(f"{field} is {value:g}, but preprocessor {name!r} has no use for it", param=field)
    if value is None:
        return threshold.default
    if not threshold.low <= value <= threshold.high:
        raise InvalidRequest(
            f"{field} is {value:g}; preprocessor {name!r} takes {threshold.low:g} to {threshold.high:g} "
            f"({threshold.what})", param=field)
    return value
