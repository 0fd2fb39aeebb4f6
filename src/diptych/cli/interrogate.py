"""`diptych interrogate`: what is to be seen in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.options import AsJson, DataDir, Server


def interrogate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True,
                                         help="PNG, JPEG, WebP, GIF or BMP.")],
    model: Annotated[
        str | None, typer.Option(show_default=False, help="A text model that sees pictures, or an image model. "
                                 "Default: the former if one is loaded, else starter.")] = None,
    caption: Annotated[
        list[str] | None, typer.Option("--caption", show_default=False, help="One that an image model may choose; may "
                                       "be repeated. Default: those in vocabulary.txt of its folder.")] = None,
    samples: Annotated[
        int | None, typer.Option(show_default=False, help="Noises that each caption is measured with. Default: 16.")
    ] = None,
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="Captions to show.")] = 5,
    server: Server = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Caption a picture: in words, or the best of a list of captions."""
    from diptych.cli.client import LONG
    from diptych.cli.connect import connected
    from diptych.cli.inputs import read_picture
    from diptych.cli.output import print_json

    raw, kind = read_picture(str(file), "FILE")
    with connected(server, data_dir) as api:
        given = {"image": api.upload_picture(raw, kind), "model": model, "vocabulary": caption or None,
                 "samples": samples, "top": top}
        body = {name: value for name, value in given.items() if value is not None}
        found = api.request("POST", "/api/interrogate", body=body, timeout=LONG)
    if as_json:
        print_json(found)
        return
    if not found["captions"]:
        print(found["caption"])
    for one in found["captions"]:
        print(f"{one['error']:.4f}  {one['caption']}")
