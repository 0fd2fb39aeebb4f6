"""A picture with a LoRA: Diptych's engine against diffusers' pipeline with the same file, sampler, steps and seed.

    python bench/adapters.py [--rounds N] [--threads N] [--quick]

The file has random weights of rank 8 for all attention layers of the UNet and the text encoder; another one for its
convolutions, too. Both write their picture as PNG. `plain` is the same without an adapter, for comparison.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

import harness
from diptych.core.specs import ImageSpec
from painter import Painter, most_apart
from picture import SPEC

BAR = 1.05
RANK = 8
LINEAR = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")


def made_lora(pipe: Any, path: Path, convolutions: bool) -> Path:
    """A file with kohya's names that changes the picture visibly."""
    torch.manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for start, module in (("lora_unet_", pipe.unet), ("lora_te_text_model_", pipe.text_encoder)):
        for name, layer in module.named_modules():
            convolution = convolutions and isinstance(layer, torch.nn.Conv2d)
            if not convolution and not (isinstance(layer, torch.nn.Linear) and name.endswith(LINEAR)):
                continue
            outputs, *inputs = layer.weight.shape
            place = start + name.removeprefix("text_model.").replace(".", "_")
            tensors[f"{place}.lora_down.weight"] = torch.randn(RANK, *inputs) / torch.tensor(inputs).prod() ** 0.5
            tensors[f"{place}.lora_up.weight"] = torch.randn(outputs, RANK, *[1] * (len(inputs) - 1)) * 0.1
            tensors[f"{place}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, path)
    return path


def pipeline(lora: Path | None, steps: int) -> Callable[[], Image.Image]:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        harness.STARTER, local_files_only=True, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        if not lora.exists():
            made_lora(pipe, lora, convolutions=lora.stem == "locon")
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)

    def paint() -> Image.Image:
        picture: Image.Image = pipe(
            SPEC["prompt"], num_inference_steps=steps, guidance_scale=SPEC["guidance"],
            generator=torch.Generator("cpu").manual_seed(SPEC["seed"])).images[0]
        picture.save(io.BytesIO(), format="PNG")
        return picture

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    rows: list[tuple[Any, ...]] = []
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as out:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        for name in ("plain", "lora", "locon"):
            file = None if name == "plain" else Path(out) / f"{name}.safetensors"
            theirs = pipeline(file, steps)
            spec = ImageSpec.model_validate({**SPEC, "steps": steps, "adapters": [{"id": name}] if file else []})
            files = {f"lora:{name}": str(file)} if file else {}

            def ours(spec: ImageSpec = spec, files: dict[str, str] = files) -> Image.Image:
                return painter.paint(spec, files)

            difference = most_apart(theirs(), ours())
            seconds = harness.alternating(rounds, {"diffusers": theirs, "engine": ours})
            ratio = harness.median_ratio(seconds["engine"], seconds["diffusers"])
            figures[name] = {"ratio": round(ratio, 4), "most_apart": difference}
            rows += [(name, way, f"{1000 * harness.median(values):.0f}", f"{ratio:.3f}" if way == "engine" else "",
                      difference if way == "engine" else "") for way, values in seconds.items()]
    harness.report("adapters", rows, ("what", "way", "ms", "ratio", "apart of 255"), {
        **figures, "bar": BAR, "met": max(one["ratio"] for one in figures.values()) <= BAR, "steps": steps,
        "rounds": rounds, "threads": options.threads, "quick": options.quick})


if __name__ == "__main__":
    main()
