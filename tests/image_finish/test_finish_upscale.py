"""Upscalers: filters, ESRGAN and Compact networks against spandrel itself, RealESRGAN's packaged weights, tiles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finish_networks import compact_weights, rrdb_weights, write_weights
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from diptych.core.errors import InvalidRequest
from diptych.core.finish import Upscale
from diptych.engines.image.finish.tiles import in_tiles
from diptych.engines.image.finish.upscale import by_network, upscaled
from diptych.engines.image.finish.upscalers import load_upscaler, rounds_of
from diptych.library.networks import packaged_networks

CPU = torch.device("cpu")


def silent(share: float) -> None:
    assert 0 <= share <= 1


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(noise(6, 6)).resize((width, height), Image.Resampling.BICUBIC))


def never() -> Any:
    raise AssertionError("no network is needed")


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("given", "size"), [
    ({"factor": 2.0}, (40, 24)), ({"factor": 0.5}, (10, 6)), ({"factor": 2.3}, (46, 28)), ({"width": 30}, (30, 18)),
    ({"height": 36}, (60, 36)), ({"width": 7, "height": 50}, (7, 50))])
def test_filters_are_pillows(name: str, given: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = noise(12, 20)
    made = upscaled(pixels, Upscale(kind="upscale", model=name, **given), never, silent)
    wanted = Image.fromarray(pixels).resize(size, Image.Resampling[name.upper()])
    assert np.array_equal(made, np.asarray(wanted))


def test_colours_of_what_cannot_be_seen_do_not_bleed() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (200, 100, 50, 255)
    pixels[:, :4, :3] = (0, 255, 0)
    made = upscaled(pixels, Upscale(kind="upscale", model="bilinear", factor=4.0), never, silent)
    seen = made[made[..., 3] > 64].astype(int)  # what is nearly transparent has coarse colours
    assert np.abs(seen[:, :3] - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize(("weights", "scale"), [(rrdb_weights(4), 4), (rrdb_weights(2), 2), (compact_weights(2), 2)],
                         ids=["esrgan-x4", "esrgan-x2", "compact-x2"])
def test_networks_are_spandrels(tmp_path: Path, weights: dict[str, torch.Tensor], scale: int) -> None:
    file = write_weights(tmp_path / "net.safetensors", weights)
    network = load_upscaler(str(file), CPU, 1)
    assert network.scale == scale
    pixels = smooth(24, 32)
    made = by_network(pixels, (32 * scale, 24 * scale), network, silent)
    import spandrel

    model = spandrel.ModelLoader().load_from_state_dict(load_file(file)).eval()
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None])[0]
    wanted = (wanted.clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    assert np.abs(made - wanted).max() <= 0.51


def test_any_factor_and_transparency(tmp_path: Path) -> None:
    network = load_upscaler(str(write_weights(tmp_path / "net.safetensors", compact_weights(2))), CPU, 1)
    pixels = np.dstack([smooth(20, 30), np.repeat(np.arange(30, dtype=np.uint8)[None] * 8, 20, 0)])
    told: list[float] = []
    made = by_network(pixels, (75, 50), network, told.append)  # 2.5 times: twice, then smaller
    assert made.shape == (50, 75, 4) and told == sorted(told)
    alpha = np.asarray(Image.fromarray(pixels[..., 3]).resize((75, 50), Image.Resampling.BICUBIC))
    assert np.array_equal(made[..., 3], alpha)
    assert [rounds_of(2, factor) for factor in (0.5, 1, 2, 2.01, 4, 5)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("size", [(161, 40), (300, 200), (163, 500), (321, 321)])
def test_tiles_make_what_the_whole_makes(size: tuple[int, int]) -> None:
    pixels = noise(size[1], size[0])
    shapes = set()

    def blur(tile: np.ndarray) -> np.ndarray:  # depends on three pixels around, as a network does
        shapes.add(tile.shape)
        image = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None]
        soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image, (3,) * 4, mode="replicate"), 7, 1)
        return torch.nn.functional.interpolate(soft, scale_factor=2)[0].permute(1, 2, 0).numpy()

    whole = in_tiles(pixels, 2, blur, silent, tile=1000)
    shapes.clear()
    made = in_tiles(pixels, 2, blur, silent)
    assert np.abs(made.astype(int) - whole).max() <= 1
    assert all(max(shape) <= 160 for shape in shapes) and len(shapes) >= 1


@pytest.mark.skipif(not packaged_networks() or importlib.util.find_spec("ncnn") is None,
                    reason="ncnn or the package with RealESRGAN's weights is not installed")
def test_realesrgan_by_ncnn() -> None:
    """The small one of the package: not what Lanczos makes, and the same picture when it is made small again."""
    file = next(path for path in packaged_networks() if path.stem == "realesr-animevideov3-x2")
    network = load_upscaler(str(file), CPU, 1)
    assert network.scale == 2
    starter = np.asarray(Image.open(Path(__file__).parents[2] / "starter" / "samples.png").convert("RGB"))[:128, :128]
    small = np.asarray(Image.fromarray(starter).resize((64, 64), Image.Resampling.NEAREST))
    made = by_network(small, (128, 128), network, silent)
    again = np.asarray(Image.fromarray(made).resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(again - small).mean() < 6
    plain = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.LANCZOS))
    assert np.abs(made.astype(int) - plain).mean() > 0.5
    assert np.array_equal(made, by_network(small, (128, 128), network, silent))


def test_what_is_no_upscaler(tmp_path: Path) -> None:
    cases = {
        "old.pth": (b"PK\x03\x04", "diptych models convert"), "some.txt": (b"x", "is no upscaler"),
        "short.safetensors": (b"\x10", "holds no upscaler"), "lonely.param": (b"7767517\n", "lonely.bin is missing"),
        "odd.param": (b"7767517\n1 1\nNonsense a 0 1 data\n", "damaged or no upscaler")}
    (tmp_path / "odd.bin").write_bytes(b"")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidRequest, match=message):
            load_upscaler(str(tmp_path / name), CPU, 1)
    write_weights(tmp_path / "other.safetensors", {"a.weight": torch.zeros(3, 3)})
    with pytest.raises(InvalidRequest, match=r"other\.safetensors holds no upscaler"):
        load_upscaler(str(tmp_path / "other.safetensors"), CPU, 1)


def test_too_large_is_told_with_the_numbers(tmp_path: Path) -> None:
    pixels = np.zeros((2000, 2000, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="32000x32000"):
        upscaled(pixels, Upscale(kind="upscale", factor=16.0), never, silent)
    network = load_upscaler(str(write_weights(tmp_path / "net.safetensors", rrdb_weights(4))), CPU, 1)
    with pytest.raises(InvalidRequest, match="made 16 times as large a side by the model"):
        by_network(pixels, (10_000, 5000), network, silent)


@pytest.mark.parametrize(("values", "message"), [
    ({"model": "Latent"}, "enlarges latents"), ({"factor": 0}, "greater than"), ({"factor": "2"}, "number"),
    ({"width": 0}, "greater than"), ({"factor": float("nan")}, "finite"), ({"mode": 1}, "not permitted")])
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Upscale(kind="upscale", **values)


@pytest.mark.skipif(not packaged_networks(), reason="the package with RealESRGAN's weights is not installed")
def test_weights_that_are_cut_short_are_told(tmp_path: Path) -> None:
    file = next(path for path in packaged_networks() if path.stem == "realesr-animevideov3-x2")
    (tmp_path / "cut.param").write_bytes(file.read_bytes())
    (tmp_path / "cut.bin").write_bytes(file.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match="damaged or no upscaler"):
        load_upscaler(str(tmp_path / "cut.param"), CPU, 1)
