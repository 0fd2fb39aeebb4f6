"""LoRA adapters of Stable Diffusion XL: two text encoders, against diffusers with the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_files import ATTENTION, TEXT, attention_layers, pairs, write
from diffusers import StableDiffusionXLPipeline
from family_studio import FamilyStudio
from test_lora import difference, ours, spec_of, use
from tiny_families import write_sdxl

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def test_both_text_encoders(tmp_path: Path) -> None:
    folder = write_sdxl(tmp_path / "xl")
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    tensors = {}
    for start, module, names in (
            ("lora_unet_", pipe.unet, ATTENTION), ("lora_te1_text_model_", pipe.text_encoder, TEXT),
            ("lora_te2_text_model_", pipe.text_encoder_2, TEXT)):
        for path, (down, up) in pairs(attention_layers(module, names), 4, 5, 1.5).items():
            name = start + path.removeprefix("text_model.").replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                        f"{name}.alpha": torch.tensor(4.0)}
    lora = write(tmp_path, "style", tensors)
    spec = spec_of("a red cat", width=32, height=32)

    def theirs() -> np.ndarray:
        made = pipe("a red cat", negative_prompt="green", num_inference_steps=3, guidance_scale=3.0, width=32,
                    height=32, generator=torch.Generator("cpu").manual_seed(5))
        return np.asarray(made.images[0])

    plain = theirs()
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    wanted = theirs()
    studio = FamilyStudio(folder, tmp_path / "out")
    try:
        made = ours(studio, spec.model_copy(update={"adapters": (use("style"),)}), style=lora)
        assert difference(made, wanted) <= 2 < 8 < difference(plain, wanted)
        assert difference(ours(studio, spec), plain) <= 2
    finally:
        studio.engine.close()
