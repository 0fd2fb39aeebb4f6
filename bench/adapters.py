"""A picture with a LoRA: Diptych's engine against diffusers' pipeline with the same file, sampler, steps and seed.

    python bench/adapters.py [--rounds N] [--threads N] [--quick]

The file has random weights of rank 8 for all attention layers of the UNet and the text encoder; another one for its
convolutions, too. Both write their picture as PNG. `plain` is the same without an adapter, for comparison.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import harness
from diptych.core.specs import ImageSpec
from painter import Painter
from versus import SPEC, Comparison, loaded, painting, parsed

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


def main() -> None:
    options = parsed(__doc__)
    comparison = Comparison(options)
    with tempfile.TemporaryDirectory() as out:
        painter = Painter(harness.STARTER, options.threads, Path(out))
        for name in ("plain", "lora", "locon"):
            pipe = loaded("StableDiffusionPipeline", harness.STARTER)
            given: dict[str, Any] = {**SPEC, "steps": options.steps}
            files: dict[str, str] = {}
            if name != "plain":
                file = made_lora(pipe, Path(out) / f"{name}.safetensors", convolutions=name == "locon")
                pipe.load_lora_weights(file.parent, weight_name=file.name)
                given["adapters"], files = [{"id": name}], {f"lora:{name}": str(file)}
            spec = ImageSpec.model_validate(given)
            comparison.add(name, painting(pipe, options.steps), partial(painter.paint, spec, files))
    comparison.report("adapters")


if __name__ == "__main__":
    main()
