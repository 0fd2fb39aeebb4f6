"""The option `--control` of `diptych image`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.errors import USAGE, CliError

if TYPE_CHECKING:
    from diptych.cli.client import Api

NUMBERS = {"weight", "start", "end", "threshold_a", "threshold_b"}
WHOLE = {"processor_res"}
FLAGS = {"pixel_perfect"}
WORDS = {"model", "image", "image_encoder", "kind", "preprocessor", "control_mode", "resize_mode"}
KNOWN = ("model", "image", "preprocessor", "weight", "start", "end", "control_mode", "resize_mode", "threshold_a",
         "threshold_b", "pixel_perfect", "processor_res", "kind", "image_encoder")

Control = Annotated[list[str] | None, typer.Option(
    "--control", metavar="FIELD=VALUE,…", show_default=False,
    help="A picture that guides, e.g. model=starter-canny,image=FILE,preprocessor=canny,weight=1; further fields: "
         f"{', '.join(KNOWN[4:])}. May be repeated.")]


def control_fields(api: Api, texts: list[str] | None) -> dict[str, Any]:
    """The field `controls`, nothing where there is none; its files are uploaded. Raises CliError, ServerError."""
    from diptych.cli.image_options import uploaded

    units = [unit_of(text) for text in texts or []]
    for unit in units:
        unit["image"] = uploaded(api, unit["image"], "--control image")
    return {"controls": units} if units else {}


def unit_of(text: str) -> dict[str, Any]:
    """One unit of `model=ID,image=FILE,…`; a comma within a value is written twice. Raises CliError."""
    found: dict[str, Any] = {}
    for part in text.replace(",,", "\0").split(","):
        name, equals, value = (one.strip().replace("\0", ",") for one in part.partition("="))
        if not equals or name not in KNOWN:
            raise CliError(f"--control: {part!r} is no FIELD=VALUE of a field that there is: {', '.join(KNOWN)}",
                           status=USAGE)
        found[name] = _value(name, value)
    for name in ("model", "image"):
        if not found.get(name):
            raise CliError(f"--control: {name}=… is missing", status=USAGE)
    return found


def _value(name: str, text: str) -> Any:
    if name in WORDS:
        return text
    if name in FLAGS and text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    try:
        return int(text) if name in WHOLE else float(text) if name in NUMBERS else _no(text)
    except ValueError:
        wanted = "yes or no" if name in FLAGS else "a whole number" if name in WHOLE else "a number"
        raise CliError(f"--control: {name} is {text!r}, not {wanted}", status=USAGE) from None


def _no(text: str) -> Any:
    raise ValueError(text)
