"""What the comparisons of pictures with diffusers' pipelines have in common: options, pipelines, and the table."""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

import harness
from painter import most_apart

SPEC: dict[str, Any] = {"prompt": "a red apple on a blue background", "guidance": 5.0, "seed": 7}
BAR = 1.05
Paint = Callable[[], Image.Image]


@dataclass(frozen=True)
class Options:
    rounds: int
    steps: int
    threads: int
    quick: bool


def parsed(doc: str | None, rounds: int = 15, quick_rounds: int = 1, quick_steps: int = 4) -> Options:
    """The command line's options; torch computes with so many threads from now on."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(given.threads)
    if given.quick:
        return Options(quick_rounds, quick_steps, given.threads, True)
    return Options(given.rounds, given.steps, given.threads, False)


def loaded(kind: str, folder: Path, **parts: Any) -> Any:
    """A pipeline of diffusers by its class's name, with Euler, as its documentation shows it."""
    pipe = getattr(diffusers, kind).from_pretrained(
        folder, local_files_only=True, safety_checker=None, torch_dtype=torch.float32, **parts)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painting(pipe: Any, steps: int, **given: Any) -> Paint:
    """One call of the pipeline, which ends with the PNG's bytes."""

    def paint() -> Image.Image:
        picture: Image.Image = pipe(
            prompt=SPEC["prompt"], num_inference_steps=steps, guidance_scale=SPEC["guidance"],
            generator=torch.Generator("cpu").manual_seed(SPEC["seed"]), **given).images[0]
        picture.save(io.BytesIO(), format="PNG")
        return picture

    return paint


@dataclass
class Comparison:
    """Rows of one table: the same picture both ways, one after the other in turns."""

    options: Options
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, theirs: Paint, ours: Paint, width: float = 1.0) -> None:
        """`width`: the share of the pictures, from the left, that has to be the same."""
        pair = [one.crop((0, 0, int(one.width * width), one.height)) for one in (ours(), theirs())]
        apart = most_apart(*pair)
        seconds = harness.alternating(self.options.rounds, {"diffusers": theirs, "engine": ours})
        ratio = harness.median_ratio(seconds["engine"], seconds["diffusers"])
        self.figures[name] = {"ratio": round(ratio, 4), "most_apart": apart}
        for way, values in seconds.items():
            told = (f"{ratio:.3f}", apart) if way == "engine" else ("", "")
            self.rows.append((name, way, f"{1000 * harness.median(values):.0f}", *told))

    def report(self, bench: str) -> None:
        worst = max(one["ratio"] for one in self.figures.values())
        harness.report(bench, self.rows, ("what", "way", "ms", "ratio", "apart of 255"), {
            **self.figures, "bar": BAR, "met": worst <= BAR, **vars(self.options)})
