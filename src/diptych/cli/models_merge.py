"""`diptych models merge` and `extract`: a process of its own does the work, for the commands never import torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE_OR_FOLDER", help="What to write.")]
Force = Annotated[bool, typer.Option("--force", help="Write a file anew that is there already.")]
Dtype = Annotated[str | None, typer.Option(metavar="TYPE", show_default=False, help="float32, float16 or bfloat16.")]
OfPart = Annotated[float | None, typer.Option(show_default=False, help="Instead of --alpha, for this part.")]


def merge(
    first: Annotated[Path, typer.Argument(help="A checkpoint (.safetensors) or a folder in diffusers' layout.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    output: Output,
    alpha: Annotated[float, typer.Option(help="How much of the second one.")] = 0.5,
    alpha_unet: OfPart = None, alpha_text: OfPart = None, alpha_vae: OfPart = None,
    method: Annotated[str, typer.Option(help="sum: (1 - alpha) A + alpha B; difference: A + alpha (B - C).")] = "sum",
    third: Annotated[Path | None, typer.Option(show_default=False, help="C, of the method difference.")] = None,
    dtype: Dtype = None, force: Force = False,
) -> None:
    """Merge two models into a new one. How it was made stands in its header, or in merge.json of a folder."""
    given = {"alpha": alpha, "alpha-unet": alpha_unet, "alpha-text": alpha_text, "alpha-vae": alpha_vae,
             "method": method, "third": third, "dtype": dtype}
    _run("merge", first, second, output, force, given)


def extract(
    first: Annotated[Path, typer.Argument(metavar="BASE", help="A folder in diffusers' layout.")],
    second: Annotated[Path, typer.Argument(metavar="TUNED", help="A folder of a model that was made of it.")],
    output: Output,
    rank: Annotated[int, typer.Option(help="Of the matrices; more is nearer and larger.")] = 32,
    dtype: Dtype = None, force: Force = False,
) -> None:
    """Write the difference of two models as a LoRA."""
    _run("extract", first, second, output, force, {"rank": rank, "dtype": dtype})


def _run(action: str, first: Path, second: Path, output: Path, force: bool, given: Mapping[str, object]) -> None:
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = [sys.executable, "-m", "diptych.engines.merge", action, f"--output={output}", *options,
               *(["--force"] if force else []), "--", str(first), str(second)]
    raise typer.Exit(subprocess.run(command, stdin=subprocess.DEVNULL).returncode)
