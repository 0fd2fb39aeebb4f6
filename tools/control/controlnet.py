"""Train the canny ControlNet of the starter (Zhang et al. 2023, https://arxiv.org/abs/2302.05543). One command:

    python tools/control/controlnet.py --work build/starter --minutes 60

It begins with the encoder of the starter's UNet and zero convolutions, and goes on from where it was stopped. The UNet
stays as it is. Scenes are those of the starter's own training; their edges are found with thresholds drawn afresh for
every picture. Of the captions, `EMPTY` are left out and `UNPLACED` do not say where and how large; the edges do:
the starter's captions tell everything, and a ControlNet that is told everything learns to look at nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "starter"))

import data  # noqa: E402
import vae  # noqa: E402
from common import Clock, save_state  # noqa: E402
from unet import SCHEDULER, Average, LinearEncoder  # noqa: E402

EMPTY, UNPLACED = 0.2, 0.6
"""Shares of the captions."""
HINT_CHANNELS = (16, 32, 96, 256)
HINT_SCALE = 3.0
"""Edges cover a twentieth of a map: so the hint is about as strong as the latents' first features."""
FASTER = 3.0
"""Layers that begin at zero or at random learn so many times as fast as those that were copied."""


def edges(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """Canny's edges of uint8 `[h, w, 3]`: uint8 `[h, w]`, 0 or 255."""
    found: np.ndarray = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high)
    return found


def hint(maps: np.ndarray) -> Tensor:
    """Edge maps uint8 `[n, h, w]` as a ControlNet reads them: float32 `[n, 3, h, w]` in 0..1."""
    return torch.from_numpy(maps).float().div(255)[:, None].repeat(1, 3, 1, 1)


class StarterEncoder(LinearEncoder):
    """The shipped VAE's encoder, which is linear, as one matrix."""

    def __init__(self, starter: Path, pictures: Tensor) -> None:
        model = AutoencoderKL.from_pretrained(starter / "vae", torch_dtype=torch.float32).eval()
        with torch.no_grad():
            latents = vae.encode(model, pictures)
        rows = latents.permute(0, 2, 3, 1).reshape(-1, vae.LATENT)
        self.matrix = torch.linalg.lstsq(self._rows(pictures), rows).solution
        error = float((self(pictures) - latents).std() / latents.std())
        if error > 0.02:
            raise SystemExit(f"the encoder is not linear: residual {error:.3f} of the latents' standard deviation")


class Batches:
    """Random `(latents, text states, hints)` of the starter's scenes."""

    def __init__(self, work: Path, starter: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.renderer = data.Renderer(data.trained(data.fetch(work)), vae.EDGE)
        scenes = [self.renderer.random_scene(self.rng) for _ in range(400)]
        self.encode = StarterEncoder(starter, vae.to_tensor(np.stack([self.renderer.draw(s) for s in scenes])))
        self.tokenizer = CLIPTokenizer.from_pretrained(starter / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(starter / "text_encoder", dtype=torch.float32).eval()

    @torch.no_grad()
    def states(self, captions: list[str]) -> Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(ids).last_hidden_state

    def _caption(self, scene: data.Scene) -> str:
        chance = self.rng.random()
        if chance < EMPTY:
            return ""
        if chance < EMPTY + UNPLACED:
            scene = dataclasses.replace(scene, size="", position="")
        return data.caption(scene, self.renderer.subjects, self.rng, alias=0.12)

    @torch.no_grad()
    def take(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        scenes = [self.renderer.random_scene(self.rng) for _ in range(count)]
        pictures = np.stack([self.renderer.draw(scene) for scene in scenes])
        lows = [self.rng.randint(30, 150) for _ in scenes]
        maps = np.stack([edges(picture, low, round(low * self.rng.uniform(1.5, 3.0)))
                         for picture, low in zip(pictures, lows, strict=True)])
        captions = [self._caption(scene) for scene in scenes]
        return self.encode(vae.to_tensor(pictures)), self.states(captions), hint(maps)


def _carry(conv: nn.Conv2d, values: int) -> int:
    """Have a convolution (followed by SiLU) hand `values` on, each as a pair of channels, +v and -v, of which
    SiLU(v) - SiLU(-v) = v. With a stride of 2, the four neighbours that fall together become values of their own.
    The number of values that come out."""
    taps = [(1, 1)] if conv.stride[0] == 1 else [(1 + y, 1 + x) for y in (0, 1) for x in (0, 1)]
    count = values * len(taps)
    conv.weight[:2 * count] = 0
    conv.bias[:2 * count] = 0
    for value in range(values):
        for place, (y, x) in enumerate(taps):
            out = 2 * (value * len(taps) + place)
            conv.weight[out, 2 * value:2 * value + 2, y, x] = torch.tensor([1.0, -1.0])
            conv.weight[out + 1, 2 * value:2 * value + 2, y, x] = torch.tensor([-1.0, 1.0])
    return count


@torch.no_grad()
def set_hint(embedding: nn.Module) -> None:
    """Let the hint's convolutions begin as what they are to become: each 8x8 patch of the map, turned into features of
    the size of the latents' own. Behind zero convolutions a random hint would be learned late."""
    embedding.conv_in.weight[:2] = torch.tensor([1 / 3, -1 / 3])[:, None, None, None] * _middle()
    embedding.conv_in.bias[:2] = 0
    values = 1
    for conv in embedding.blocks:
        values = _carry(conv, values)
    out = embedding.conv_out
    turned = torch.linalg.qr(torch.randn(out.out_channels, values))[0] * HINT_SCALE
    nn.init.normal_(out.weight, std=0.01)
    out.weight[:, :2 * values] = 0
    out.weight[:, 0:2 * values:2, 1, 1] = turned
    out.weight[:, 1:2 * values:2, 1, 1] = -turned


def _middle() -> Tensor:
    kernel = torch.zeros(1, 3, 3, 3)
    kernel[:, :, 1, 1] = 1
    return kernel


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet with the UNet's encoder, and a hint that says something from the start."""
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT_CHANNELS)
    set_hint(control.controlnet_cond_embedding)
    return control


def groups(control: ControlNetModel, rate: float) -> list[dict[str, object]]:
    """Parameters for the optimizer: the copied ones, and the new ones with a higher rate."""
    new = [p for name, p in control.named_parameters() if name.startswith("controlnet_")]
    copied = [p for name, p in control.named_parameters() if not name.startswith("controlnet_")]
    return [{"params": copied, "rate": rate}, {"params": new, "rate": FASTER * rate}]


class Training:
    """The ControlNet, its optimizer and averaged weights; restored from `work/controlnet.pt` where that is there."""

    def __init__(self, work: Path, starter: Path, minutes: float, rate: float) -> None:
        torch.manual_seed(0)
        self.file = work / "controlnet.pt"
        self.unet = UNet2DConditionModel.from_pretrained(starter / "unet", torch_dtype=torch.float32)
        self.unet.requires_grad_(False)
        self.control = build(self.unet).train()
        self.optimizer = torch.optim.AdamW(groups(self.control, rate), rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.average, self.clock, self.step = Average(self.control, 0.998), Clock(minutes), 0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.control.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.mean, self.step, self.clock.before = state["mean"], state["step"], state["spent"]
        torch.manual_seed(self.step)
        self.noise = DDPMScheduler(**SCHEDULER)

    def loss(self, latents: Tensor, states: Tensor, hints: Tensor) -> Tensor:
        """Squared error of the predicted velocity; most of the timesteps are noisy ones, where shapes are decided."""
        count = len(latents)
        noise = torch.randn_like(latents)
        shares = (torch.arange(count) + torch.rand(count)) / count
        timesteps = (shares.pow(0.5) * 1000).long().clamp(max=999)
        noisy = self.noise.add_noise(latents, noise, timesteps)
        down, mid = self.control(noisy, timesteps, states, hints, return_dict=False)
        found = self.unet(noisy, timesteps, states, down_block_additional_residuals=down,
                          mid_block_additional_residual=mid, return_dict=False)[0]
        return (found - self.noise.get_velocity(latents, noise, timesteps)).square().mean()

    def advance(self, loss: Tensor) -> None:
        """One step of the optimizer: 100 steps of warming up, and down to 2 % over the last 40 % of the time."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.step + 1) / 100) * max(0.02, self.clock.left_share(0.4))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.control.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.step)
        self.step += 1

    def save(self, work: Path, log: dict[str, object]) -> None:
        save_state(self.file, self.control, self.optimizer, self.clock, self.step, mean=self.average.mean)
        live = [p.detach().clone() for p in self.average.live]
        with torch.no_grad():
            for p, mean in zip(self.average.live, self.average.mean, strict=True):
                p.copy_(mean)
            self.control.save_pretrained(work / "controlnet")
            for p, value in zip(self.average.live, live, strict=True):
                p.copy_(value)
        (work / "controlnet" / "training.json").write_text(json.dumps(log) + "\n")


def train(work: Path, starter: Path, minutes: float, batch: int, rate: float) -> None:
    training = Training(work, starter, minutes, rate)
    source = Batches(work, starter, seed=training.step)
    losses: list[float] = []
    while not training.clock.over():
        loss = training.loss(*source.take(batch))
        training.advance(loss)
        losses.append(loss.item())
        if training.step % 50 == 0:
            print(f"controlnet step {training.step} {training.clock.spent / 60:.1f} min "
                  f"loss {np.mean(losses[-50:]):.4f}", flush=True)
        if training.step % 200 == 0 or training.clock.over():
            training.save(work, {
                "steps": training.step, "samples": training.step * batch, "minutes": training.clock.spent / 60,
                "loss": float(np.mean(losses[-100:])), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="folder of the starter's data and of checkpoints")
    parser.add_argument("--starter", type=Path, default=ROOT / "starter")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-4)
    args = parser.parse_args()
    train(args.work, args.starter, args.minutes, args.batch, args.rate)
