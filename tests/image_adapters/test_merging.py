"""`diptych models merge` and `extract`: arithmetic of real files, and a LoRA that turns one model into the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from image_studio import Studio
from ldm_checkpoint import write_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_lora import difference, ours, spec_of, use

from diptych.engines.merge import main
from diptych.library.checkpoint import identify_checkpoint

STARTER = Path(__file__).parents[2] / "starter"
UNET = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
VAE = "first_stage_model.decoder.conv_out.bias"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three checkpoints in one file each."""
    root = tmp_path_factory.mktemp("merge")
    weights = load_file(write_checkpoint(root / "base.safetensors"))
    weights["model_ema.num_updates"] = torch.tensor(7)
    found = {}
    for number, name in enumerate("abc"):
        generator = torch.Generator().manual_seed(number)
        found[name] = root / f"{name}.safetensors"
        save_file({key: value + 0.1 * torch.randn(value.shape, generator=generator) if value.is_floating_point()
                   else value for key, value in weights.items()}, found[name], metadata={"modelspec.title": name})
    return found


def test_a_weighted_sum_with_other_weights_for_parts(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "sum.safetensors"
    command = [sys.executable, "-m", "diptych", "models", "merge", str(files["a"]), str(files["b"]), "-o", str(output),
               "--alpha", "0.3", "--alpha-text", "1", "--alpha-vae", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "unet 0.3, text 1, vae 0" in done.stdout, done.stderr
    a, b, made = (load_file(path) for path in (files["a"], files["b"], output))
    assert set(made) == set(a) and made["model_ema.num_updates"] == 7
    assert torch.allclose(made[UNET], 0.7 * a[UNET] + 0.3 * b[UNET], atol=1e-6)
    assert torch.allclose(made[TEXT], b[TEXT], atol=1e-6) and torch.equal(made[VAE], a[VAE])
    with safe_open(output, "pt") as file:
        recipe = json.loads(file.metadata()["diptych.merge"])
    assert recipe["models"] == ["a.safetensors", "b.safetensors"] and recipe["alpha"]["unet"] == 0.3
    card = identify_checkpoint(output)
    assert card is not None and card.family == "sd1" and card.name == "a"


def test_a_difference_is_added(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "difference.safetensors"
    arguments = ["merge", str(files["a"]), str(files["b"]), "--output", str(output), "--alpha", "0.5", "--dtype",
                 "float16", "--method", "difference"]
    assert main(arguments) == 1 and "needs a third model" in capsys.readouterr().err
    assert main([*arguments, "--third", str(files["c"])]) == 0
    a, b, c, made = (load_file(path) for path in (files["a"], files["b"], files["c"], output))
    assert made[UNET].dtype == torch.float16
    assert torch.allclose(made[UNET].float(), a[UNET] + 0.5 * (b[UNET] - c[UNET]), atol=1e-3)
    assert main([*arguments, "--third", str(files["c"])]) == 1 and "is there already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, with changes of rank 3 in some layers of its UNet."""
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    shutil.copytree(STARTER, folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    for name, value in unet.named_parameters():
        if name.endswith((".to_q.weight", ".conv1.weight", ".proj_in.weight")):
            outputs, inputs = value.shape[0], value[0].numel()
            change = torch.randn((outputs, 3), generator=generator) @ torch.randn((3, inputs), generator=generator)
            value.data += 0.6 * float(value.detach().std()) * change.view(value.shape)
    unet.save_pretrained(folder / "unet")
    return folder


def test_folders_are_merged(tuned: Path, tmp_path: Path) -> None:
    output = tmp_path / "between"
    assert main(["merge", str(STARTER), str(tuned), "--output", str(output), "--alpha", "0.25"]) == 0
    name = "mid_block.resnets.0.conv1.weight"
    first, second, made = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")[name].float()
                           for folder in (STARTER, tuned, output))
    assert torch.allclose(made, 0.75 * first + 0.25 * second, atol=2e-3)
    assert json.loads(json.loads((output / "merge.json").read_text())["diptych.merge"])["method"] == "sum"
    assert (output / "tokenizer" / "tokenizer.json").is_file() and (output / "model_index.json").is_file()


def test_an_extracted_lora_makes_the_tuned_models_pictures(
    adapted: Studio, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "taken.safetensors"
    options = ["--output", str(output), "--rank", "3", "--dtype", "float32"]
    assert main(["extract", str(STARTER), str(tuned), *options]) == 0
    assert float(capsys.readouterr().out.rpartition("rank 3, ")[2].partition(" %")[0]) > 99
    studio = Studio(tuned, tmp_path / "out")
    try:
        wanted = studio.picture(spec_of())
    finally:
        studio.engine.close()
    made = ours(adapted, spec_of(adapters=[use("taken")]), taken=output)
    assert difference(made, wanted) <= 3 < 20 < difference(ours(adapted, spec_of()), wanted)


def test_what_cannot_be_merged(
    files: dict[str, Path], tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    smaller = tmp_path / "smaller.safetensors"
    save_file({key: value for key, value in load_file(files["a"]).items() if key != UNET}, smaller)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    out = ["--output", str(tmp_path / "out.safetensors")]
    a = str(files["a"])
    for arguments, words in (
        (["merge", a, str(smaller), *out], "is another kind of model"),
        (["merge", a, str(tmp_path / "x.safetensors"), *out], "cannot be read"),
        (["merge", a, str(tmp_path / "nowhere"), *out], "is neither"),
        (["merge", a, a, *out, "--alpha", "nan"], "alpha is nan"),
        (["merge", a, str(files["b"]), "--output", a, "--force"], "one of the models themselves"),
        (["merge", a, str(files["b"]), "--output", str(tmp_path / "folder")], "has to end in .safetensors"),
        (["extract", a, str(files["b"]), *out], "from two folders"),
        (["extract", str(tuned), str(tuned), *out], "do not differ"),
        (["extract", str(tuned), str(tuned), *out, "--rank", "0"], "rank is 0"),
    ):
        assert main(arguments) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
