"""`diptych image`: pictures from a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli import control_options
from diptych.cli import image_options as canvas
from diptych.cli import stage_options as stages
from diptych.cli.options import AsJson, DataDir, Server, parse_size
from diptych.core.samplers import SAMPLERS, SCHEDULES


def image(
    prompt: Annotated[str, typer.Argument(help='What to paint, e.g. "a red apple on a blue background".')],
    count: Annotated[int, typer.Option("-n", "--count", help="Pictures to make.")] = 1,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the pictures, or a file name that ends in .png.")
    ] = Path(),
    steps: Annotated[
        int | None, typer.Option(show_default=False, help="Denoising steps. Default: 20.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(show_default=False, help=f"{', '.join(SAMPLERS)}. Default: Euler."),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(show_default=False, help=f"Noise schedule: {', '.join(SCHEDULES)}. Default: "
                     "automatic, the sampler's usual one.")] = None,
    seed: Annotated[
        int | None, typer.Option(show_default=False, help="Seed of the first picture; the next has seed + 1. "
                                 "Default: drawn.")] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=False, help="Pixels, e.g. 128x128. Default: the model's own size; "
                     "with --init, see docs/pictures.md."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(show_default=False, help="Guidance scale (CFG): how closely to follow the prompt; 1 is off. "
                     "Default: 5."),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(show_default=False, help="Negative prompt: what to keep out.")] = None,
    clip_skip: Annotated[
        int | None, typer.Option("--clip-skip", show_default=False, help="Layer of CLIP that is used, counted from the "
                                 "last. Default: 1.")] = None,
    style: Annotated[
        list[str] | None, typer.Option("--style", show_default=False, help="A style of the data folder's styles.json; "
                                       "may be repeated.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Brackets and other signs of the prompt language mean themselves.")] = False,
    model: Annotated[
        str | None, typer.Option(show_default=False, help="Image model, by its id. Default: starter.")] = None,
    init: canvas.Init = None,
    strength: canvas.Strength = None,
    resize_mode: canvas.ResizeMode = None,
    mask: canvas.MaskFile = None,
    mask_shape: canvas.MaskShape = None,
    mask_pixels: canvas.MaskPixels = False,
    mask_invert: canvas.MaskInvert = False,
    mask_blur: canvas.MaskBlur = None,
    mask_grow: canvas.MaskGrow = None,
    mask_feather: canvas.MaskFeather = None,
    mask_fill: canvas.MaskFill = None,
    only_masked: canvas.OnlyMasked = None,
    outpaint: canvas.Outpaint = None,
    color_correction: canvas.ColorCorrection = False,
    control: control_options.Control = None,
    hires: stages.Hires = None,
    variation: stages.Variation = None,
    tiling: stages.Tiling = None,
    refiner: stages.Refiner = None,
    lora: stages.Lora = None,
    vae: stages.Vae = None,
    server: Server = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures from a prompt, and from a picture (--init): another like it, parts of it anew (--mask,
    --mask-shape), or more of it (--outpaint).

    Prints the files' paths. Ctrl-C cancels the job."""
    from diptych.cli.connect import connected
    from diptych.cli.output import print_json
    from diptych.cli.watch import run_job, save

    if output.suffix.lower() == ".png" and count > 1:
        raise typer.BadParameter(f"{output} names one file; give a folder for {count} pictures", param_hint="-o")
    given: dict[str, Any] = {
        "prompt": prompt, "count": count, "steps": steps, "sampler": sampler, "schedule": schedule, "seed": seed,
        "guidance": guidance, "negative_prompt": negative, "model": model, "clip_skip": clip_skip,
        "styles": style or None, "prompt_syntax": "plain" if plain else None}
    pixels = parse_size(size)
    if pixels:
        given |= {"width": pixels[0], "height": pixels[1]}
    masked = canvas.mask_fields(
        mask, mask_shape, mask_pixels, mask_invert, only_masked, blur=mask_blur, grow=mask_grow, feather=mask_feather,
        fill=mask_fill)
    given |= stages.stage_fields(hires, variation, tiling, refiner, lora, vae)
    with connected(server, data_dir) as api:
        given |= canvas.canvas_fields(
            api, init=init, strength=strength, resize_mode=resize_mode, mask=masked, outpaint=outpaint,
            color_correction=color_correction)
        given |= control_options.control_fields(api, control)
        job = run_job(api, {name: value for name, value in given.items() if value is not None})
        files = save(api, job, output)
    if as_json:
        print_json({"job": job, "files": [str(file) for file in files]})
        return
    for file in files:
        print(file)
