"""Merging image models, and the difference of two models as a LoRA: `python -m diptych.engines.merge merge|extract …`,
in a process of its own. One tensor of each model is in memory at a time."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from diptych.engines.merge_files import PARTS, Model, NotMerged, part_of, write_like

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RECIPE = "diptych.merge"
"""In the header of what was merged, or in merge.json of a folder: how."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done, 1: not done, with the reason on standard error."""
    given = _parser().parse_args(arguments)
    try:
        told = merge(given) if given.action == "merge" else extract(given)
    except NotMerged as error:
        print(f"diptych: {error}", file=sys.stderr)
        return 1
    print(told, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diptych models")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("merge", "extract"):
        one = actions.add_parser(name)
        one.add_argument("first", type=Path)
        one.add_argument("second", type=Path)
        one.add_argument("--output", type=Path, required=True)
        one.add_argument("--force", action="store_true")
        one.add_argument("--dtype", choices=sorted(DTYPES))
        if name == "merge":
            one.add_argument("--alpha", type=float, default=0.5)
            for part in PARTS:
                one.add_argument(f"--alpha-{part}", type=float)
            one.add_argument("--method", choices=("sum", "difference"), default="sum")
            one.add_argument("--third", type=Path)
        else:
            one.add_argument("--rank", type=int, default=32)
    return parser


def merge(given: argparse.Namespace) -> str:
    """Weighted sum: (1 - alpha) first + alpha second; difference: first + alpha (second - third). Raises NotMerged."""
    if (given.method == "difference") != (given.third is not None):
        raise NotMerged("the method difference needs a third model (--third), and the method sum takes none")
    alphas = {part: _alpha(getattr(given, f"alpha_{part}"), given.alpha) for part in PARTS}
    _check_output(given)
    with Model(given.first) as first, Model(given.second) as second, Model(given.third or given.first) as third:
        for other in (second, third):
            _check_same(first, other)

        def made(key: str) -> torch.Tensor:
            a, alpha = first.tensor(key), alphas[part_of(key)]
            if not a.is_floating_point() or not alpha:
                return a
            base = a if given.method == "sum" else third.tensor(key)
            return a.float() + alpha * (second.tensor(key).float() - base.float())

        recipe = {"method": given.method, "alpha": alphas, "models": [
            one.path.name for one in (first, second, *([third] if given.third else []))]}
        kept = {} if first.folder else {key: value for key, value in first.metadata.items()
                                        if key.startswith("modelspec.") and "hash" not in key}
        write_like(first, given.output, made, DTYPES.get(given.dtype), {**kept, RECIPE: json.dumps(recipe)})
    return f"{given.output}: {recipe['method']} of {', '.join(map(str, recipe['models']))}, alpha " + ", ".join(
        f"{part} {alpha:g}" for part, alpha in alphas.items())


def _alpha(own: float | None, common: float) -> float:
    alpha = common if own is None else own
    if not math.isfinite(alpha) or not -2 <= alpha <= 2:
        raise NotMerged(f"alpha is {alpha:g}; possible are -2 to 2")
    return alpha


def _check_output(given: argparse.Namespace) -> None:
    output: Path = given.output
    sources = [path.resolve() for path in (given.first, given.second, getattr(given, "third", None)) if path]
    if output.resolve() in sources:
        raise NotMerged(f"{output} is one of the models themselves")
    if output.exists() and (not given.force or output.is_dir()):
        raise NotMerged(f"{output} is there already" + ("" if output.is_dir() else "; --force writes it anew"))
    single = given.action == "extract" or not given.first.is_dir()
    if single and output.suffix != ".safetensors":
        raise NotMerged(f"{output} has to end in .safetensors")
    output.parent.mkdir(parents=True, exist_ok=True)


def _check_same(first: Model, other: Model) -> None:
    """Raises NotMerged where the other model has not all tensors of the first, of the same shapes."""
    for key in first.keys():  # noqa: SIM118
        shape = other.shape(key)
        if shape != first.shape(key):
            told = "is missing" if shape is None else f"is {shape}"
            raise NotMerged(f"{other.path.name} is another kind of model than {first.path.name}: {key} {told} there, "
                            f"here {first.shape(key)}")


def extract(given: argparse.Namespace) -> str:
    """A LoRA of the best approximation, of a rank, of second - first (Eckart and Young 1936): for every linear layer
    and convolution of the UNet and the text encoders, by singular value decomposition. Folders of diffusers. Raises
    NotMerged."""
    if not 1 <= given.rank <= 1024:
        raise NotMerged(f"rank is {given.rank}; possible are 1 to 1024")
    _check_output(given)
    made: dict[str, torch.Tensor] = {}
    left = total = 0.0
    with Model(given.first) as first, Model(given.second) as second:
        if not first.folder or not second.folder:
            raise NotMerged("a LoRA is taken from two folders in the layout of diffusers")
        _check_same(first, second)
        double = any(key.startswith("text_encoder_2/") for key in first.keys())  # noqa: SIM118
        for key in first.keys():  # noqa: SIM118
            shape = first.shape(key) or ()
            if len(shape) not in (2, 4) or not key.endswith(".weight") or part_of(key) == "vae" or "embedding." in key:
                continue
            change = second.tensor(key).float() - first.tensor(key).float()
            if not bool(change.any()):
                continue
            down, up = _low_rank(change, given.rank)
            rest = change.flatten(1) - up.flatten(1) @ down.flatten(1)
            left, total = left + float(rest.pow(2).sum()), total + float(change.pow(2).sum())
            dtype = DTYPES[given.dtype or "float16"]
            name = _name(key, double)
            made |= {f"{name}.lora_down.weight": down.to(dtype).contiguous(), f"{name}.alpha": torch.tensor(
                float(down.shape[0])), f"{name}.lora_up.weight": up.to(dtype).contiguous()}
    if not made:
        raise NotMerged(f"{given.first.name} and {given.second.name} do not differ in any layer that a LoRA changes")
    recipe = {"models": [given.first.name, given.second.name], "rank": given.rank}
    save_file(made, given.output, metadata={"format": "pt", "ss_network_dim": str(given.rank),
                                            "diptych.extract": json.dumps(recipe)})
    kept = 1 - math.sqrt(left / total)
    return f"{given.output}: {len(made) // 3} layers, rank {given.rank}, {100 * kept:.1f} % of the difference"


def _low_rank(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, inputs, …) and (outputs, rank, …)."""
    left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    if change.ndim == 4:
        return down.reshape(rank, *change.shape[1:]), up[:, :, None, None]
    return down, up


def _name(key: str, double: bool) -> str:
    """As kohya's scripts call a layer. `double`: the model has two text encoders."""
    part, _, path = key.removesuffix(".weight").partition("/")
    starts = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_" if double else "lora_te_text_model_",
              "text_encoder_2": "lora_te2_text_model_"}
    return starts[part] + path.removeprefix("text_model.").replace(".", "_")


if __name__ == "__main__":
    sys.exit(main())
