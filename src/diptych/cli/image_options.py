"""Options of `diptych image` for pictures that are made from pictures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.errors import USAGE, CliError

if TYPE_CHECKING:
    from diptych.cli.client import Api

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_NUMBERS = re.compile(rf"\s*{_NUMBER}(?:[\s,]+{_NUMBER})*\s*")
SIDES = ("left", "right", "top", "bottom", "overlap", "fill")
SHAPE_HELP = ("What to repaint: rect:X,Y,WIDTH,HEIGHT, polygon:X,Y,X,Y,… or path:SVG (M L H V C S Q T A Z), in "
              "fractions of the picture; ! before it takes it away. May be repeated.")

Init = Annotated[str | None, typer.Option(
    "--init", metavar="FILE", show_default=False,
    help="Picture to start from: a file, artifact:ID, or the sha256:… of an uploaded one.")]
Strength = Annotated[float | None, typer.Option(
    "--strength", show_default=False,
    help="How far to go from it: 0 to 1. Default: 0.75.")]
ResizeMode = Annotated[str | None, typer.Option(
    "--resize-mode", metavar="MODE", show_default=False,
    help="How it gets another shape: resize (stretch), crop, or fill. Default: resize.")]
MaskFile = Annotated[str | None, typer.Option(
    "--mask", metavar="FILE", show_default=False,
    help="Picture of what to repaint: white, or opaque where it has transparency.")]
MaskShape = Annotated[list[str] | None, typer.Option(
    "--mask-shape", metavar="SHAPE", show_default=False, help=SHAPE_HELP)]
MaskPixels = Annotated[bool, typer.Option(
    "--mask-pixels", help="Numbers of --mask-shape are pixels.")]
MaskInvert = Annotated[bool, typer.Option(
    "--mask-invert", help="Repaint what is not masked.")]
MaskBlur = Annotated[float | None, typer.Option(
    "--mask-blur", show_default=False, help="Softness of the mask's edge in pixels. Default: 4.")]
MaskGrow = Annotated[int | None, typer.Option(
    "--mask-grow", show_default=False, help="Pixels to grow the mask by, or to shrink it.")]
MaskFeather = Annotated[int | None, typer.Option(
    "--mask-feather", show_default=False,
    help="Pixels around the mask over which the picture fades in.")]
MaskFill = Annotated[str | None, typer.Option(
    "--mask-fill", metavar="FILL", show_default=False,
    help="What it begins with there: original, fill, noise or nothing. Default: original.")]
OnlyMasked = Annotated[int | None, typer.Option(
    "--only-masked", metavar="PADDING", show_default=False,
    help="Paint only the mask and so many pixels around it, at full size, and put it back.")]
Outpaint = Annotated[list[str] | None, typer.Option(
    "--outpaint", metavar="SIDE=PIXELS", show_default=False,
    help="Extend the picture: left=64, right=…, top=…, bottom=…; also overlap=8 and fill=edge|noise|nothing. May be "
         "repeated, or several with commas.")]
ColorCorrection = Annotated[bool, typer.Option(
    "--color-correction", help="Give the result the picture's colours.")]


def canvas_fields(
    api: Api, *, init: str | None, strength: float | None, resize_mode: str | None, mask: dict[str, Any],
    outpaint: list[str] | None, color_correction: bool,
) -> dict[str, Any]:
    """Fields of a job that starts from a picture; its files are uploaded. Empty where none of these is given.

    Args:
        mask: what `mask_fields` gave; its `image` may be a file.

    Raises:
        CliError: a file that is no picture, or options that need --init. ServerError: the server takes no such picture.
    """
    fields: dict[str, Any] = {
        "strength": strength, "resize_mode": resize_mode, "color_correction": color_correction or None,
        "mask": mask or None, "outpaint": outpaint_fields(outpaint)}
    given = {name: value for name, value in fields.items() if value is not None}
    if init is None:
        if given:
            option = {"resize_mode": "--resize-mode", "color_correction": "--color-correction"}
            first = next(iter(given))
            raise CliError(f"{option.get(first, f'--{first}')} needs --init: the picture to start from", status=USAGE)
        return {}
    if mask.get("image"):
        given["mask"] = {**mask, "image": uploaded(api, mask["image"], "--mask")}
    return {"init_image": uploaded(api, init, "--init"), **given}


def mask_fields(
    file: str | None, shapes: list[str] | None, pixels: bool, invert: bool, only_masked: int | None,
    **more: float | str | None,
) -> dict[str, Any]:
    """The field `mask`, empty where there is none; `more` are its fields by their names. Raises CliError."""
    found: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
    if invert:
        found["invert"] = True
    if only_masked is not None:
        found |= {"region": "masked", "padding": only_masked}
    if file is None and not shapes:
        if found:
            raise CliError("options of the mask need --mask or --mask-shape", status=USAGE)
        return {}
    if file is not None:
        found["image"] = file
    units = "pixels" if pixels else "fraction"
    return {**found, "shapes": [{**shape_of(text), "units": units} for text in shapes or []]}


def shape_of(text: str) -> dict[str, Any]:
    """`rect:X,Y,WIDTH,HEIGHT`, `polygon:X,Y,…` or `path:D`, with `!` before it one that erases. Raises CliError."""
    kind, _, rest = text.removeprefix("!").partition(":")
    erase = {"erase": True} if text.startswith("!") else {}
    if kind == "path" and rest:
        return {"kind": "path", "d": rest, **erase}
    numbers = [float(number) for number in re.findall(_NUMBER, rest)] if _NUMBERS.fullmatch(rest) else []
    if kind == "rect" and len(numbers) == 4:
        return {"kind": "rectangle", **dict(zip(("x", "y", "width", "height"), numbers, strict=True)), **erase}
    if kind == "polygon" and len(numbers) >= 6 and len(numbers) % 2 == 0:
        return {"kind": "polygon", "points": list(zip(numbers[::2], numbers[1::2], strict=True)), **erase}
    raise CliError(f"--mask-shape: {text!r} is none of rect:X,Y,WIDTH,HEIGHT, polygon:X,Y,X,Y,X,Y… and path:SVG",
                   status=USAGE)


def outpaint_fields(texts: list[str] | None) -> dict[str, Any] | None:
    """The field `outpaint` of `left=64,top=32` and the like. Raises CliError."""
    if not texts:
        return None
    found: dict[str, Any] = {}
    for text in ",".join(texts).split(","):
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in SIDES or name in found or not (value.isdecimal() if name != "fill" else value):
            raise CliError(f"--outpaint: {text!r} is none of left=PIXELS, right=…, top=…, bottom=…, overlap=… and "
                           "fill=edge|noise|nothing, each once", status=USAGE)
        found[name] = value if name == "fill" else int(value)
    return found


def uploaded(api: Api, value: str, option: str) -> str:
    """What a picture field holds: the id of the file, sent to the server, or what names a picture there already.

    Raises:
        CliError: the file cannot be read. ServerError: the server does not take it.
    """
    from diptych.cli.inputs import read_picture

    if value.startswith(("artifact:", "sha256:")):
        return value
    raw, kind = read_picture(value, option)
    return api.upload_picture(raw, kind)
