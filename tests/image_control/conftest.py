"""A tiny Stable Diffusion, what can guide it, and one engine that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_controls
import torch
from control_studio import ControlStudio
from diffusers import UNet2DConditionModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` (the model), ControlNets `edges`, `lines` and `pooled`, `adapter`, `light`, `image_encoder`,
    `prompt.safetensors` and `plus.safetensors` (IP-Adapters)."""
    root = tmp_path_factory.mktemp("control")
    base = UNet2DConditionModel.from_pretrained(tiny_controls.write_base(root / "base") / "unet")
    tiny_controls.controlnet(base, 11).save_pretrained(root / "edges")
    tiny_controls.controlnet(base, 12, controlnet_conditioning_channel_order="bgr").save_pretrained(root / "lines")
    tiny_controls.controlnet(base, 13, global_pool_conditions=True).save_pretrained(root / "pooled")
    tiny_controls.t2i_adapter(14).save_pretrained(root / "adapter")
    tiny_controls.t2i_adapter(15, in_channels=1).save_pretrained(root / "grey")
    tiny_controls.image_encoder().save_pretrained(root / "image_encoder")
    tiny_controls.write_ip_adapter(root / "prompt.safetensors", base, 16)
    tiny_controls.write_ip_adapter(root / "plus.safetensors", base, 17, plus=True)
    return root


@pytest.fixture(scope="session")
def studio(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlStudio]:
    opened = ControlStudio(parts, tmp_path_factory.mktemp("pictures"))
    yield opened
    opened.engine.close()
