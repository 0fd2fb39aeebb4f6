"""`diptych rerun`: make a picture again from what its file says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.options import AsJson, DataDir, Server

if TYPE_CHECKING:
    from diptych.core.specs import JobSpec

ROUNDING = 2
"""How far, of 255, a picture made alone and the same one made among others may lie apart."""


def rerun(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A PNG that Diptych made.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", show_default=False, help="Where the new picture goes: a folder, or a name that "
                     "ends in .png. Default: beside the old one, with -rerun in its name."),
    ] = None,
    server: Server = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a picture again from its own file.

    Says whether every pixel is the same. A picture that was denoised together with others may come out up to 2 of 255
    apart, because a processor rounds a batch of another size differently; one that was made alone comes out the same.
    The description is in the file itself: prompt, model, sampler, steps, seed.
    Pictures of other programs that carry A1111's text work where the model and the sampler are here, but come out
    alike rather than the same.
    """
    from diptych.cli.connect import connected
    from diptych.cli.output import print_json, say
    from diptych.cli.watch import run_job, save

    spec = read_spec(file)
    with connected(server, data_dir) as api:
        job = run_job(api, request_of(spec), "/api/jobs" if spec.kind == "image" else "/api/finish")
        made = save(api, job, output or file.with_name(f"{file.stem}-rerun.png"))[0]
    difference = compare(file, made)
    if as_json:
        same = difference is not None and difference <= ROUNDING
        print_json({"job": job["id"], "file": str(made), "identical": difference == 0, "same_picture": same,
                    "max_difference": difference})
        return
    print(made)
    say(_words(difference))


def request_of(spec: JobSpec) -> dict[str, Any]:
    """The request that makes this picture: with the prompts that were drawn for it, where these are known."""
    if spec.kind == "finish":
        return spec.model_dump(mode="json", exclude={"kind", "count"})
    request = spec.model_dump(mode="json", exclude={"resolved", "named"})
    if spec.resolved and spec.resolved[0].prompt:
        request |= {**spec.prompts_of(0).model_dump(), "styles": []}
    return request


def read_spec(file: Path) -> JobSpec:
    """The spec inside a PNG. Raises `CliError` for a file that is no picture or carries none."""
    from PIL import Image, UnidentifiedImageError

    from diptych.cli.errors import CliError
    from diptych.core.errors import DiptychError
    from diptych.core.infotext import work_from_text_chunks

    try:
        with Image.open(file) as picture:
            picture.load()  # text after the pixels counts as well
            chunks = {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CliError(f"{file} is no picture that can be read") from error
    try:
        return work_from_text_chunks(chunks)
    except DiptychError as error:
        raise CliError(f"{file}: {error.message}") from error


def compare(old: Path, new: Path) -> int | None:
    """The largest difference of any channel of any pixel, 0 to 255; None when the sizes differ."""
    from PIL import Image, ImageChops

    with Image.open(old) as first, Image.open(new) as second:
        if first.size != second.size:
            return None
        extrema = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]


def _words(difference: int | None) -> str:
    if difference is None:
        return "The new picture has another size than the old one."
    if difference == 0:
        return "Every pixel is the same as in the old picture."
    if difference <= ROUNDING:
        return (f"The same picture; pixels differ by at most {difference} of 255, which is rounding: one of the two "
                "was made in a batch with others.")
    return (f"Not the same picture: the largest difference is {difference} of 255 (another machine, version or "
            "model?).")
