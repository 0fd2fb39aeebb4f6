"""Eight requests of different kinds at once, against the same eight one after the other.

    python bench/mixed.py [--rounds N] [--threads N] [--quick]

Different samplers, steps, strengths, guidance, prompts and adapters, on the starter: pictures from text, from pictures,
inpainted, and with LoRA adapters. Both ways by our engine in this process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import harness
from diptych.core.specs import ImageSpec
from from_picture import LEFT
from painter import Painter, finished, stored
from versus import SPEC, parsed

BAR = 1.3
RANK = 4


def lora_file(folder: Path, name: str, seed: int) -> Path:
    """A random LoRA of all attention layers of the starter's UNet, in diffusers' format."""
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    unet = UNet2DConditionModel.from_pretrained(harness.STARTER, subfolder="unet", local_files_only=True)
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for path, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and path.split(".")[-1] in ("to_q", "to_k", "to_v"):
            down = torch.randn(RANK, module.in_features, generator=generator) / module.in_features ** 0.5
            up = torch.randn(module.out_features, RANK, generator=generator) * 0.02
            weights |= {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}
    path = folder / f"{name}.safetensors"
    save_file(weights, path)
    return path


def requests(id: str, steps: int) -> list[ImageSpec]:
    """Eight specs; `id` is that of an uploaded picture."""
    kinds: list[dict[str, Any]] = [
        {"sampler": "Euler"}, {"sampler": "DPM++ 2M", "schedule": "karras", "guidance": 7.0},
        {"sampler": "Euler a", "steps": steps + 5, "prompt": "a green cat"},
        {"sampler": "DDIM", "init_image": id, "strength": 0.6}, {"init_image": id, "strength": 0.9, "mask": LEFT},
        {"adapters": [{"id": "one", "weight": 0.8}]}, {"sampler": "UniPC", "adapters": [{"id": "two", "weight": 0.5}]},
        {"sampler": "Heun", "steps": max(2, steps // 2), "adapters": [{"id": "one"}, {"id": "two", "weight": -0.3}]},
    ]
    return [ImageSpec.model_validate({**SPEC, "steps": steps, "seed": number, **kind})
            for number, kind in enumerate(kinds)]


def main() -> None:
    options = parsed(__doc__, rounds=9, quick_steps=3)
    rounds, steps = options.rounds, options.steps
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as folder:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        first = painter.paint(ImageSpec.model_validate({**SPEC, "steps": steps}))
        id, files = stored(first.convert("RGB"), Path(folder))
        files |= {f"lora:{name}": str(lora_file(Path(folder), name, seed)) for seed, name in enumerate(("one", "two"))}
        specs = requests(id, steps)

        def one_after_the_other() -> None:
            for spec in specs:
                painter.paint(spec, files)

        def at_once() -> None:
            for told in [painter.begin(spec, files) for spec in specs]:
                finished(told)

        seconds = harness.alternating(rounds, {"one after the other": one_after_the_other, "all at once": at_once})
    one, all_ = seconds.values()
    ratio = harness.median_ratio(one, all_)
    rows = [(name, f"{harness.median(values):.2f}", f"{len(specs) / harness.median(values):.2f}")
            for name, values in seconds.items()]
    harness.report("mixed", [*rows, ("throughput, ratio", "", f"{ratio:.2f}")], ("way", "seconds", "pictures/s"), {
        "throughput_ratio": round(ratio, 3), "bar": BAR, "met": ratio >= BAR, "requests": len(specs), "steps": steps,
        "rounds": rounds, "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
