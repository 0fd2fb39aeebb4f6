"""Options of `diptych image` for second passes, variations, tiling, the refiner and adapters."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from diptych.cli.errors import USAGE, CliError

HIRES_NUMBERS = ("scale", "strength", "guidance")
HIRES_WHOLE = ("width", "height", "steps")
HIRES_WORDS = ("upscaler", "sampler", "schedule", "prompt", "negative_prompt")

Hires = Annotated[str | None, typer.Option(
    "--hires", metavar="FIELD=VALUE,…", show_default=False,
    help="A second pass over the enlarged picture, e.g. scale=2,strength=0.6,upscaler=lanczos; further fields: "
         f"{', '.join((*HIRES_WHOLE, 'guidance', *HIRES_WORDS[1:]))}.")]
Variation = Annotated[str | None, typer.Option(
    "--variation", metavar="STRENGTH[,SEED]", show_default=False,
    help="Mix so much (0 to 1) of another seed's noise into the first noise, e.g. 0.2,7.")]
Tiling = Annotated[str | None, typer.Option(
    "--tiling", show_default=False, help="Sides that continue at the opposite one: both, x or y.")]
Refiner = Annotated[str | None, typer.Option(
    "--refiner", metavar="MODEL[,SHARE]", show_default=False,
    help="A model that takes over after a share of the steps. Default share: 0.8.")]
Lora = Annotated[list[str] | None, typer.Option(
    "--lora", metavar="ID[,WEIGHT]", show_default=False, help="A LoRA adapter; may be repeated. Default weight: 1.")]
Vae = Annotated[str | None, typer.Option("--vae", show_default=False, help="A VAE to use instead of the model's own.")]


def stage_fields(
    hires: str | None, variation: str | None, tiling: str | None, refiner: str | None, lora: list[str] | None,
    vae: str | None,
) -> dict[str, Any]:
    """Fields of a job, those that were given. Raises CliError."""
    found: dict[str, Any] = {"hires": None if hires is None else hires_of(hires), "tiling": tiling, "vae": vae}
    if variation is not None:
        strength, _, seed = variation.partition(",")
        found["variation_strength"] = _number("--variation", strength, float)
        found["variation_seed"] = _number("--variation", seed, int) if seed else None
    if refiner is not None:
        model, share = _named("--refiner", refiner, 0.8)
        found["refiner"] = {"model": model, "switch_at": share}
    if lora:
        found["adapters"] = [{"id": id, "weight": weight}
                             for id, weight in (_named("--lora", text, 1.0) for text in lora)]
    return {name: value for name, value in found.items() if value is not None}


def hires_of(text: str) -> dict[str, Any]:
    """`scale=2,…`; a value with a comma in it is written as a JSON string. Raises CliError."""
    found: dict[str, Any] = {}
    for name, value in _pairs(text):
        if name in HIRES_NUMBERS or name in HIRES_WHOLE:
            found[name] = _number(f"--hires: {name}", value, int if name in HIRES_WHOLE else float)
        elif name in HIRES_WORDS:
            found[name] = value
        else:
            known = ", ".join((*HIRES_NUMBERS, *HIRES_WHOLE, *HIRES_WORDS))
            raise CliError(f"--hires: {name!r} is no field; there are: {known}", status=USAGE)
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        name, equals, _ = text[place:].partition("=")
        if not equals:
            raise CliError(f"--hires: {text[place:]!r} is no FIELD=VALUE", status=USAGE)
        place += len(name) + 1
        if text[place:place + 1] == '"':
            try:
                value, place = decoder.raw_decode(text, place)
            except ValueError:
                raise CliError(f"--hires: the string after {name}= has no end", status=USAGE) from None
        else:
            value = text[place:].partition(",")[0]
            place += len(value)
        pairs.append((name.strip(), str(value).strip()))
        place += 1
    return pairs


def _named(option: str, text: str, usual: float) -> tuple[str, float]:
    name, _, number = text.partition(",")
    if not name:
        raise CliError(f"{option}: the name is missing", status=USAGE)
    return name, _number(option, number, float) if number else usual


def _number(option: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise CliError(f"{option} is {text!r}, not a {'whole ' if kind is int else ''}number", status=USAGE) from None
