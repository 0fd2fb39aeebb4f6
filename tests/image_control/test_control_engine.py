"""Requests with and without control go together, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controls
import torch
from control_studio import ControlStudio, control, shown, spec_of
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from image_studio import Gate
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny_families import unet

from diptych.core.control import Control
from diptych.core.errors import InvalidRequest, NotFound
from diptych.engines.image.control.networks import ControlNet
from diptych.engines.image.control.reading import read_controlnet, read_t2i_adapter

ALL: dict[str, tuple[Control, ...]] = {
    "none": (),
    "controlnet": (control("edges"),),
    "prompt-is-more-important": (control("edges", 2, control_mode="prompt"),),
    "control-is-more-important": (control("edges", control_mode="control"),),
    "the-same-network-twice": (control("edges", weight=0.4), control("edges", 2, weight=0.5)),
    "two-networks": (control("lines", 2, weight=0.6, start=0.3), control("edges")),
    "t2i-adapter": (control("adapter", 2, kind="t2i_adapter"),),
    "ip-adapter": (control("prompt.safetensors", 3, kind="ip_adapter"),),
    "everything": (control("edges", weight=0.3), control("adapter", 2, kind="t2i_adapter", weight=0.5),
                   control("plus.safetensors", 3, kind="ip_adapter", weight=0.5)),
}


@pytest.fixture(scope="module", autouse=True)
def sent(studio: ControlStudio) -> None:
    studio.send(1, tiny_controls.drawing("disc"))
    studio.send(2, tiny_controls.drawing("box"))
    studio.send(3, tiny_controls.drawing("disc", 20))


def test_a_picture_is_the_same_in_a_crowd(studio: ControlStudio) -> None:
    """Rows of all kinds share the UNet's passes."""
    specs = [spec_of(*controls, seed=number) for number, controls in enumerate(ALL.values())]
    alone = [studio.pictures(studio.run(spec))[0] for spec in specs]
    gate = Gate(studio)
    runs = [studio.run(spec) for spec in specs]
    gate.open()
    for name, run, expected in zip(ALL, runs, alone, strict=True):
        assert np.abs(studio.pictures(run)[0].astype(int) - expected).max() <= 2, name
    assert max(gate.rows) >= 8


def test_modes_differ(studio: ControlStudio) -> None:
    pictures = [studio.controlled(control("edges", control_mode=mode)).astype(int)
                for mode in ("balanced", "prompt", "control")]
    assert all(np.abs(pictures[first] - pictures[second]).max() > 4 for first, second in ((0, 1), (0, 2), (1, 2)))
    plain = studio.controlled().astype(int)
    softer = [np.abs(picture - plain).mean() for picture in pictures]
    assert softer[1] < softer[0]  # with the prompt more important, control does less


def test_a_weight_of_zero_and_steps_that_never_come_change_nothing(studio: ControlStudio) -> None:
    plain = studio.controlled()
    assert (studio.controlled(control("edges", weight=0.0)) == plain).all()
    assert (studio.controlled(control("edges", start=0.9)) == plain).all()  # the last of four steps begins at 0.75


def test_a_preprocessor_makes_the_map(studio: ControlStudio) -> None:
    solid = tiny_controls.drawing("disc").convert("L").point(lambda value: 255 - value).convert("RGB")
    studio.send(7, solid)
    found = studio.controlled(control("edges", 7, preprocessor="invert"))
    assert (found == studio.controlled(control("edges"))).all()


def test_a_second_pass_is_controlled_at_its_own_size(studio: ControlStudio) -> None:
    hires = {"hires": {"scale": 1.5, "strength": 0.6, "steps": 2}}
    found = studio.controlled(control("edges"), **hires)
    assert found.shape == (48, 48, 3)
    assert np.abs(found.astype(int) - studio.controlled(**hires)).max() > 10


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "end-before-start": ({"start": 0.5, "end": 0.25}, "start is 0.5, not before end, 0.25"),
    "empty-share": ({"start": 1.0, "end": 1.0}, "not before end"),
    "unknown-preprocessor": ({"preprocessor": "cany"}, "'cany' is unknown; known: none, canny"),
    "threshold-of-none": ({"threshold_a": 3}, "has no use for it"),
    "threshold-out-of-range": ({"preprocessor": "canny", "threshold_a": 300}, "takes 1 to 255"),
    "two-resolutions": ({"pixel_perfect": True, "processor_res": 512}, "give one of the two"),
    "no-resolution": ({"pixel_perfect": False}, "processor_res has to say"),
    "mode-of-an-adapter": ({"kind": "t2i_adapter", "control_mode": "prompt"}, "only ControlNets have modes"),
    "preprocessor-of-an-ip-adapter": ({"kind": "ip_adapter", "preprocessor": "canny"}, "leave it out"),
    "weight": ({"weight": 3.0}, "less than or equal to 2"),
    "mode": ({"control_mode": "both"}, "'balanced', 'prompt' or 'control'"),
    "not-a-number": ({"weight": float("nan")}, "finite number"),
    "text-for-a-number": ({"weight": "1"}, "valid number"),
    "unknown-field": ({"strength": 1.0}, "Extra inputs"),
    "no-model": ({"model": ""}, "at least 1 character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_fields_are_refused(case: str) -> None:
    fields, words = REFUSED[case]
    with pytest.raises(ValidationError, match=words):
        Control.model_validate({"model": "edges", "image": shown(1), **fields})


@pytest.mark.parametrize("missing", ["model", "image"])
def test_a_unit_needs_model_and_picture(missing: str) -> None:
    values = {"model": "edges", "image": shown(1)}
    del values[missing]
    with pytest.raises(ValidationError, match=missing):
        Control.model_validate(values)


def test_a_missing_preprocessor_file_is_named_before_any_step(studio: ControlStudio) -> None:
    spec = spec_of(control("edges", preprocessor="none"))
    bad = spec.model_copy(update={"controls": (control("edges", preprocessor="depth"),)})
    files = {reference.key: str(studio.parts / reference.id) for reference in spec.references()} | {
        f"input:{shown(1)}": studio.sent[shown(1)]}
    from diptych.core.protocol import RunRequest

    with pytest.raises(NotFound, match=r"depth\.onnx"):
        studio.engine.submit(RunRequest(id="bad", spec=bad, files=files, output_dir=str(studio.out / "bad")), print)


def wide(root: Path, name: str) -> Path:
    """Parts of a model with another text context, saved as `name`."""
    other = unet(cross_attention_dim=48, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                 up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    if name == "wide":
        tiny_controls.controlnet(other, 1).save_pretrained(root / name)
        return root / name
    return tiny_controls.write_ip_adapter(root / name, other, 1)


MISFITS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "controlnet-of-another-family": (lambda root: wide(root, "wide"), {"model": "wide"},
                                     "text context of width 48, but the model has 32"),
    "ip-adapter-of-another-family": (lambda root: wide(root, "wide.safetensors"),
                                     {"model": "wide.safetensors", "kind": "ip_adapter"}, "width 48"),
    "t2i-adapter-of-another-shape": (lambda root: tiny_controls.t2i_adapter(1, channels=[16, 48]).save_pretrained(
        root / "thick"), {"model": "thick", "kind": "t2i_adapter"}, "48 channels at"),
    "damaged-file": (lambda root: (root / "bad.safetensors").write_bytes(b"12345678{"), {"model": "bad.safetensors"},
                     "could not be loaded"),
    "something-else": (lambda root: save_file({"a": torch.zeros(1)}, root / "else.safetensors"),
                       {"model": "else.safetensors"}, "could not be loaded"),
    "adapter-as-controlnet": (lambda root: None, {"model": "adapter"}, "could not be loaded"),
    "controlnet-as-ip-adapter": (lambda root: None, {"model": "edges", "kind": "ip_adapter"}, "could not be loaded"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_by_name(studio: ControlStudio, case: str) -> None:
    make, fields, words = MISFITS[case]
    make(studio.parts)
    with pytest.raises(InvalidRequest, match=words) as caught:
        studio.run(spec_of(control(**fields)))
    assert str(studio.parts) not in caught.value.message


def original_controlnet(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys of the original training code for a ControlNet of one layer and two resolutions."""
    names = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0", "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
        "controlnet_mid_block": "middle_block_out.0", "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.blocks.0": "input_hint_block.2",
        "controlnet_cond_embedding.blocks.1": "input_hint_block.4",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        **{f"controlnet_down_blocks.{number}": f"zero_convs.{number}.0" for number in range(4)}}
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
             "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    found = {}
    for key, value in weights.items():
        start = max((name for name in names if key.startswith(f"{name}.")), key=len)
        rest = key.removeprefix(f"{start}.")
        first = rest.split(".")[0]
        if "resnets" in start:
            rest = rest.replace(first, inner[first], 1)
        found[f"control_model.{names[start]}.{rest}"] = value
    return found


def test_controlnets_in_one_file(parts: Path, tmp_path: Path) -> None:
    """With the keys of diffusers, and with those of the original code."""
    base = UNet2DConditionModel.from_pretrained(parts / "base" / "unet")
    weights = load_file(parts / "edges" / "diffusion_pytorch_model.safetensors")
    save_file(weights, tmp_path / "plain.safetensors")
    save_file(original_controlnet(weights), tmp_path / "original.safetensors")
    expected = ControlNetModel.from_pretrained(parts / "edges").state_dict()
    for name in ("plain", "original"):
        found = read_controlnet(tmp_path / f"{name}.safetensors", base, torch.float32).state_dict()
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    ControlNet(str(tmp_path / "original.safetensors"), base, torch.device("cpu"), torch.float32)


def test_t2i_adapters_in_one_file(tmp_path: Path) -> None:
    """Full and light ones with the keys of the original code: two residual blocks of each resolution in one list."""
    full = tiny_controls.t2i_adapter(3, channels=[16, 32, 32], downscale_factor=8)
    light = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=3, downscale_factor=8,
                       adapter_type="light_adapter")
    for name, adapter in (("full", full), ("light", light)):
        plain = {key.removeprefix("adapter."): value for key, value in adapter.state_dict().items()}
        original = {}
        for key, value in plain.items():
            words = key.split(".")
            if "resnets" in words and name == "full":
                words = ["body", str(2 * int(words[1]) + int(words[3])), *words[4:]]
            elif "in_conv" in words and name == "full":
                words[1] = str(2 * int(words[1]))
            original[".".join(words).replace("resnets", "body")] = value
        for keys, values in (("original", original), ("plain", adapter.state_dict())):
            save_file(values, tmp_path / f"{name}-{keys}.safetensors")
            found = read_t2i_adapter(tmp_path / f"{name}-{keys}.safetensors", torch.float32)
            picture = torch.rand(1, 3, 64, 64)
            with torch.no_grad():
                for ours, theirs in zip(found(picture), adapter(picture), strict=True):
                    assert torch.equal(ours, theirs), (name, keys)
