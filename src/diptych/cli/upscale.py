"""`diptych upscale`: a picture made larger, and what else can be done with one that is there; `diptych watermark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.options import AsJson, DataDir, Server, parse_size

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="PNG, JPEG, WebP, GIF or BMP.")]


def upscale(
    file: File,
    factor: Annotated[float, typer.Option("-f", "--factor", help="How often as large each side becomes.")] = 2.0,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=False, help="Pixels, e.g. 1024x1024, instead of --factor.")] = None,
    upscaler: Annotated[
        str, typer.Option("-u", "--upscaler", help="lanczos, bicubic, bilinear, nearest, or an upscaler's id: "
                          "`diptych models list --parts` shows them.")] = "realesrgan-x4plus",
    no_upscale: Annotated[
        bool, typer.Option("--no-upscale", help="Leave the size; with the options below.")] = False,
    background: Annotated[
        str | None, typer.Option(metavar="MODEL", show_default=False, help="Take the background away, by an ONNX file "
                                 "in the models folder, e.g. u2net.")] = None,
    faces: Annotated[
        str | None, typer.Option(metavar="PROMPT", show_default=False, help="Paint faces again from this prompt, e.g. "
                                 '"a detailed face".')] = None,
    text: Annotated[
        str | None, typer.Option("--watermark", metavar="TEXT", show_default=False, help="Write this over a corner.")
    ] = None,
    invisible: Annotated[
        str | None, typer.Option("--invisible", metavar="TEXT", show_default=False, help="Hide up to 32 bytes in the "
                                 "picture; `diptych watermark` reads them.")] = None,
    nsfw: Annotated[str, typer.Option(help="Where nudity is found: off (not looked for), blur, refuse.")] = "off",
    model: Annotated[
        str | None, typer.Option(show_default=False, help="Image model that paints faces. Default: starter.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", show_default=False, help="A folder, or a file name that ends in "
                                  ".png. Default: beside the file, with -upscaled in its name.")] = None,
    server: Server = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a picture larger, and repair, cut out or mark it.

    Prints the new file's path. Ctrl-C cancels the job."""
    from diptych.cli.connect import connected
    from diptych.cli.inputs import read_picture
    from diptych.cli.output import print_json
    from diptych.cli.watch import run_job, save

    raw, kind = read_picture(str(file), "FILE")
    stages = [] if no_upscale else [{"kind": "upscale", "model": upscaler, **_wanted(factor, size)}]
    # Faces are painted at the size that the picture had: there are fewer pixels to get right.
    stages[:0] = [{"kind": "detail", "detect": "face", "prompt": faces}] if faces else []
    stages += [{"kind": "background", "model": background}] if background else []
    stages += [{"kind": "watermark", "text": text}] if text else []
    stages += [{"kind": "invisible", "payload": invisible}] if invisible else []
    with connected(server, data_dir) as api:
        request = {"image": api.upload_picture(raw, kind), "finish": stages, "nsfw": nsfw,
                   **({} if model is None else {"model": model})}
        job = run_job(api, request, "/api/finish")
        made = save(api, job, output or file.with_name(f"{file.stem}-upscaled.png"))[0]
    if as_json:
        print_json({"job": job, "file": str(made)})
        return
    print(made)


def _wanted(factor: float, size: str | None) -> dict[str, Any]:
    pixels = parse_size(size)
    return {"factor": factor} if pixels is None else {"width": pixels[0], "height": pixels[1]}


def watermark(file: File, server: Server = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Read the invisible watermark of a picture. Exit status 1 where there is none."""
    from diptych.cli.connect import connected
    from diptych.cli.inputs import read_picture
    from diptych.cli.output import print_json, say

    raw, kind = read_picture(str(file), "FILE")
    with connected(server, data_dir) as api:
        found = api.request("POST", "/api/watermark", body={"image": api.upload_picture(raw, kind)})
    if as_json:
        print_json(found)
    elif found["found"]:
        print(found["payload"])
    else:
        say(f"{file} has no invisible watermark.")
    if not found["found"]:
        raise typer.Exit(1)
