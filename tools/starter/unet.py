"""Train the starter's UNet to predict velocity (Salimans and Ho, 2022), from frozen text states.

Scenes are drawn afresh for every batch. The encoder is linear (see `vae.py`), so that latents of 64x64 pictures cost
one matrix product; the matrix is fitted to the real encoder at the start and checked. Timesteps are stratified over
the batch; weights are averaged (EMA); a tenth of the captions is empty, for guidance.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

import data
import text
import vae
from common import Clock, save_state

SCHEDULER = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02,
             "prediction_type": "v_prediction", "clip_sample": False}
EMPTY = 0.1


def build() -> UNet2DConditionModel:
    cross = "CrossAttnDownBlock2D"
    return UNet2DConditionModel(
        sample_size=vae.EDGE // vae.PATCH, in_channels=vae.LATENT, out_channels=vae.LATENT,
        block_out_channels=(96, 192, 224), layers_per_block=1, cross_attention_dim=text.WIDTH, attention_head_dim=8,
        down_block_types=("DownBlock2D", cross, cross),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))


class LinearEncoder:
    """The VAE's encoder as one matrix, `[192 + 1, LATENT]`."""

    def __init__(self, work: Path) -> None:
        model = vae.prepare(work)
        pictures = vae.Pictures(data.fetch(work), 3).batch(400)
        with torch.no_grad():
            rows = vae.encode(model, pictures).permute(0, 2, 3, 1).reshape(-1, vae.LATENT)
        self.matrix = torch.linalg.lstsq(self._rows(pictures), rows).solution
        error = float((self._rows(pictures) @ self.matrix - rows).std())
        if error > 0.02:
            raise SystemExit(f"the encoder is not linear: residual {error:.3f} of standard deviation 1")

    @staticmethod
    def _rows(pictures: Tensor) -> Tensor:
        patches = vae._patches(pictures, vae.PATCH)
        return torch.cat([patches, torch.ones(len(patches), 1)], dim=1)

    def __call__(self, pictures: Tensor) -> Tensor:
        side = pictures.shape[-1] // vae.PATCH
        return (self._rows(pictures) @ self.matrix).reshape(-1, side, side, vae.LATENT).permute(0, 3, 1, 2)


class Batches:
    """Random `(latents, text states)`; states `[n, 77, width]` come from the frozen text encoder."""

    def __init__(self, work: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.renderer = data.Renderer(data.trained(data.fetch(work)), vae.EDGE)
        self.encode = LinearEncoder(work)
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval()

    @torch.no_grad()
    def states(self, captions: list[str]) -> Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(ids).last_hidden_state

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        scenes = [self.renderer.random_scene(self.rng) for _ in range(count)]
        pictures = np.stack([self.renderer.draw(scene) for scene in scenes])
        captions = [
            "" if self.rng.random() < EMPTY else data.caption(scene, self.renderer.subjects, self.rng, alias=0.12)
            for scene in scenes]
        return self.encode(vae.to_tensor(pictures)), self.states(captions)


class Average:
    """Exponential moving average of a model's parameters; short at first, `decay` later."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.live = decay, list(model.parameters())
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.mean, self.live, 1 - min(self.decay, (1 + step) / (10 + step)))


def save_mean(model: UNet2DConditionModel, average: Average, folder: Path, log: dict[str, object]) -> None:
    """The averaged weights as a diffusers folder, with the training log beside them for the card."""
    live = [p.detach().clone() for p in average.live]
    with torch.no_grad():
        for p, mean in zip(average.live, average.mean, strict=True):
            p.copy_(mean)
        model.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(log) + "\n")
        for p, value in zip(average.live, live, strict=True):
            p.copy_(value)


def train(work: Path, minutes: float, batch: int, rate: float, compiled: bool,
          start: Path | None) -> None:
    torch.manual_seed(0)
    model = build()
    print(f"unet {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = Average(model, 0.999)
    clock, step, file = Clock(minutes), 0, work / "unet.pt"
    if start is not None and not file.exists():
        model.load_state_dict(torch.load(start, weights_only=True)["model"])
        average = Average(model, 0.999)
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.mean = state["mean"]
        clock.before, step = state["spent"], state["step"]
    source = Batches(work, seed=step)
    noise_schedule = DDPMScheduler(**SCHEDULER)
    forward = torch.compile(model) if compiled else model
    losses: list[float] = []
    started, first = time.monotonic(), step
    while not clock.over():
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * max(0.02, clock.left_share(0.4))
        latents, states = source.take(batch)
        noise = torch.randn_like(latents)
        timesteps = ((torch.arange(batch) + torch.rand(batch)) * (1000 / batch)).long().clamp(max=999)
        noisy = noise_schedule.add_noise(latents, noise, timesteps)
        target = noise_schedule.get_velocity(latents, noise, timesteps)
        loss = (forward(noisy, timesteps, states).sample - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            speed = (step - first) * batch / (time.monotonic() - started)
            print(f"unet step {step} {clock.spent / 60:.1f} min loss {np.mean(losses[-100:]):.4f} "
                  f"{speed:.0f} samples/s", flush=True)
        if step % 400 == 0 or clock.over():
            save_state(file, model, optimizer, clock, step, mean=average.mean)
            log = {"steps": step, "samples": step * batch, "minutes": clock.spent / 60,
                   "loss": float(np.mean(losses[-100:])), "device": f"{torch.get_num_threads()} CPU thread(s)"}
            save_mean(model, average, work / "unet", log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=85)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--start", type=Path, help="weights to begin with, where there is no checkpoint to go on from")
    parser.add_argument("--compile", action="store_true", help="a quarter faster on a CPU, after minutes of compiling")
    args = parser.parse_args()
    train(args.work, args.minutes, args.batch, args.rate, args.compile, args.start)
