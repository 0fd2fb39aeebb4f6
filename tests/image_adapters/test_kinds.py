"""Every kind of adapter in the layers of the UNet, against PEFT's own modules and against merged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_files import kohya, parts_of, write, write_peft
from diffusers import StableDiffusionPipeline
from image_studio import Studio
from peft.utils import get_peft_model_state_dict

from diptych.core.errors import InvalidRequest
from diptych.engines.image.adapters.deltas import Decomposed, applied
from diptych.engines.image.adapters.layers import AdapterLayers, planned

TARGETS = r".*\.(to_q|to_v|to_out\.0|ff\.net\.2|conv1|conv_shortcut|proj_in)"
Made = Callable[..., torch.Tensor]
CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=TARGETS),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=TARGETS),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
    "loha with cores": lambda: peft.LoHaConfig(r=4, alpha=6, use_effective_conv2d=True, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=TARGETS),
    "lokr of pairs": lambda: peft.LoKrConfig(
        r=2, alpha=3, decompose_both=True, decompose_factor=8, use_effective_conv2d=True, target_modules=TARGETS),
}


@pytest.fixture(scope="module")
def unet(pipe: StableDiffusionPipeline) -> Any:
    return copy.deepcopy(pipe.unet)


@pytest.fixture(scope="module")
def layers(unet: Any) -> AdapterLayers:
    return AdapterLayers({"unet": unet})


@pytest.fixture(scope="module")
def predict() -> Iterator[Made]:
    generator = torch.Generator().manual_seed(2)
    latents, contexts = (torch.randn(shape, generator=generator) for shape in ((2, 24, 8, 8), (2, 77, 192)))

    @torch.inference_mode()
    def run(unet: Any) -> torch.Tensor:
        made: torch.Tensor = unet(latents, torch.tensor([300, 700]), encoder_hidden_states=contexts).sample
        return made

    yield run


def randomized(model: Any) -> None:
    """New numbers for everything that PEFT begins with zeros or ones."""
    generator = torch.Generator().manual_seed(4)
    for name, value in model.named_parameters():
        if any(mark in name for mark in ("lora_", "hada_", "lokr_")):
            base = value.data if "magnitude" in name else 0.0
            size = 0.1 if "lora" in name or name.endswith("lokr_w2") else 0.4
            value.data = base + size * torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("kind", CONFIGS)
def test_as_peft(
    pipe: StableDiffusionPipeline, unet: Any, layers: AdapterLayers, predict: Made, kind: str, tmp_path: Path,
) -> None:
    config = CONFIGS[kind]()
    model = peft.get_peft_model(copy.deepcopy(pipe.unet), config)
    randomized(model)
    theirs = predict(model.base_model.model)
    state = {key.removeprefix("base_model.model."): value for key, value in get_peft_model_state_dict(model).items()}
    values = {key: value for key, value in config.to_dict().items() if isinstance(value, str | int | float | bool)}
    adapter = layers.load(write_peft(tmp_path / "made", state, **values), "made")
    plain = predict(unet)
    with layers.using("unet", [((adapter.key, 1.0),)] * 2):
        made = predict(unet)
    assert float((theirs - plain).abs().max()) > 0.1, "the adapter does nothing"
    assert torch.allclose(made, theirs, atol=2e-3 * float(theirs.abs().max()))
    with layers.using("unet", [(), ((adapter.key, 1.0),)]):
        mixed = predict(unet)
    assert torch.allclose(mixed[0], plain[0], atol=1e-4) and torch.allclose(mixed[1], made[1], atol=1e-4)


def test_names_of_the_original_unet_and_cores(
    unet: Any, layers: AdapterLayers, predict: Made, tmp_path: Path,
) -> None:
    """LoCon with a core (CP), under the names that kohya's scripts give the layers of Stable Diffusion XL."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    expected = copy.deepcopy(unet)
    names = {"input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
             "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
             "output_blocks_1_0_skip_connection": "up_blocks.0.resnets.1.conv_shortcut",
             "output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv", "input_blocks_0_0": "conv_in"}
    for name, path in names.items():
        weight = expected.get_submodule(path).weight
        outputs, inputs, *kernel = weight.shape
        down, mid, up = (0.3 * torch.randn(shape, generator=generator)
                         for shape in ((3, inputs, 1, 1), (3, 3, *kernel), (outputs, 3, 1, 1)))
        tensors |= {f"lora_unet_{name}.lora_down.weight": down, f"lora_unet_{name}.lora_mid.weight": mid,
                    f"lora_unet_{name}.lora_up.weight": up, f"lora_unet_{name}.alpha": torch.tensor(1.5)}
        product = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
        weight.data += 0.8 * 0.5 * product
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    change = 0.1 * torch.randn(expected.get_submodule(attention).weight.shape, generator=generator)
    tensors["lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k.diff"] = change
    expected.get_submodule(attention).weight.data += 0.8 * change
    adapter = layers.load(write(tmp_path, "cores", tensors), "cores")
    assert set(adapter.deltas["unet"]) == {*names.values(), attention}
    with layers.using("unet", [((adapter.key, 0.8),)] * 2):
        made = predict(unet)
    wanted = predict(expected)
    assert torch.allclose(made, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_dora_by_input(layers: AdapterLayers) -> None:
    """LyCORIS norms the columns by default: W' = m (W + delta) / ‖W + delta‖."""
    layer = torch.nn.Linear(5, 7)
    delta = torch.randn(7, 5)

    class Fixed:
        def weight_change(self) -> torch.Tensor:
            return delta

    magnitude = torch.rand(1, 5)
    x = torch.randn(3, 4, 5)
    with torch.inference_mode():
        made = layer(x)
        Decomposed(Fixed(), magnitude, by_input=True).change(layer, x, made, 0.5)  # type: ignore[arg-type]
        changed = layer.weight + 0.5 * delta
        wanted = applied(layer, x, magnitude * changed / changed.norm(dim=0, keepdim=True)) + layer.bias
    assert torch.allclose(made, wanted, atol=1e-5)


def test_an_adapter_nobody_holds_leaves_the_layers(
    pipe: StableDiffusionPipeline, layers: AdapterLayers, tmp_path: Path,
) -> None:
    half = parts_of(pipe.unet, pipe.text_encoder, 1, conv=True)["unet"]
    path = write(tmp_path, "gone", kohya({"unet": half}))
    adapter = layers.load(path, "gone")
    assert layers.load(path, "gone") is adapter
    key = adapter.key
    with layers.using("unet", [((key, 1.0),)]):
        assert any(key in deltas for deltas in layers._deltas.values())
    del adapter
    other = layers.load(write(tmp_path, "o", kohya({"unet": {"conv_in": half["conv_in"]}})), "o")
    with layers.using("unet", [((other.key, 1.0),)]):
        assert not any(key in deltas for deltas in layers._deltas.values())


def test_rows() -> None:
    a, b = ("a", 1.0), ("b", 0.5)
    plan = planned([(a,), (a, b), (), (b, ("c", 0.0)), ()], torch.device("cpu"))
    assert [(key, weight) for key, weight, _ in plan] == [a, b]
    assert plan[0][2] == slice(0, 2) and plan[1][2].tolist() == [1, 3]  # type: ignore[union-attr]
    assert planned([(a,), (a,)], torch.device("cpu")) == [("a", 1.0, None)]


UP = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"
BAD: dict[str, tuple[dict[str, torch.Tensor] | bytes, str]] = {
    "no safetensors": (b"nothing at all", "cannot be read"),
    "an unknown kind": ({"unet.mid_block.resnets.0.conv1.oft_blocks": torch.ones(2, 2)}, "oft_blocks"),
    "an unknown layer": ({"lora_unet_nowhere.lora_down.weight": torch.ones(2, 2)}, "lora_unet_nowhere"),
    "no part": ({"transformer.blocks.0.lora_A.weight": torch.ones(2, 2)}, "transformer.blocks.0"),
    "another width": ({f"unet.{UP}": torch.ones(320, 4), f"unet.{UP}".replace("lora_B", "lora_A"): torch.ones(4, 320)},
                      r"does not fit this model at 'unet.mid_block.*to_q', whose weight is \(224, 224\)"),
    "half of it": ({f"unet.{UP}": torch.ones(224, 4)}, "it has only up"),
    "two ranks": ({f"unet.{UP}": torch.ones(224, 4), f"unet.{UP}".replace("lora_B", "lora_A"): torch.ones(3, 224)},
                  r"\(3, 224\) and \(224, 4\)"),
    "nan": ({f"unet.{UP}": torch.full((224, 4), torch.nan),
             f"unet.{UP}".replace("lora_B", "lora_A"): torch.ones(4, 224)}, "not finite"),
    "nothing": ({}, "changes nothing"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused(adapted: Studio, what: str, tmp_path: Path) -> None:
    content, words = BAD[what]
    path = tmp_path / "bad.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(tmp_path, "bad", content)
    from test_lora import spec_of, use

    with pytest.raises(InvalidRequest, match=words) as refused:
        adapted.submit(spec_of(adapters=[use("bad")]), files={"lora:bad": str(path)})
    assert "'bad'" in refused.value.message and refused.value.param == "adapters"
