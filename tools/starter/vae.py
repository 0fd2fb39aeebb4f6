"""Train the starter's VAE (AutoencoderKL) on composed pictures and crops of the whole emoji set.

Latents get a fixed Gaussian noise (`NOISE`) in training, so that the decoder forgives the small errors of a small
UNet; a weak penalty keeps them near unit variance. Loss: L1 + 4·L2 on pixels in -1..1.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

import data
from common import Clock, load_state, psnr, save_state

NOISE = 0.12


def build(edge: int, latent: int) -> AutoencoderKL:
    """128-pixel pictures: 16x down; 64-pixel pictures: 8x down. Both give 8x8 latents."""
    channels = (16, 32, 64, 96, 128) if edge == 128 else (16, 32, 64, 128)
    count = len(channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * count, up_block_types=("UpDecoderBlock2D",) * count,
        norm_num_groups=8, sample_size=edge, mid_block_add_attention=False, force_upcast=False)


class Pictures:
    """Random batches: mostly scenes of trained subjects, some of every other emoji."""

    def __init__(self, root: Path, edge: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.main = data.Renderer(data.trained(root), edge)
        self.rest = data.Renderer([data.Subject("", (), file) for file in data.other_pictures(root)], edge)

    def batch(self, count: int) -> torch.Tensor:
        """float32 `[count, 3, edge, edge]` in -1..1."""
        pictures = []
        for _ in range(count):
            source = self.main if self.rng.random() < 0.6 else self.rest
            pictures.append(source.draw(source.random_scene(self.rng)))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def held_out_batch(root: Path, edge: int) -> torch.Tensor:
    renderer = data.Renderer(data.held_out(root), edge)
    rng = random.Random(7)
    pictures = [renderer.draw(renderer.random_scene(rng, i)) for i in range(len(renderer.subjects))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    return vae.quant_conv(vae.encoder(pictures)).chunk(2, dim=1)[0]


def train(work: Path, edge: int, latent: int, minutes: float, batch: int, rate: float) -> None:
    torch.manual_seed(0)
    root = data.fetch(work)
    vae = build(edge, latent)
    torch.nn.init.zeros_(vae.quant_conv.weight[latent:])
    torch.nn.init.constant_(vae.quant_conv.bias[latent:], 2 * float(np.log(NOISE)))
    optimizer = torch.optim.AdamW(vae.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.0)
    file = work / f"vae{edge}-{latent}.pt"
    clock = Clock(minutes)
    start = load_state(file, vae, optimizer, clock)
    source = Pictures(root, edge, seed=start)
    test = held_out_batch(root, edge)
    step = start
    while not clock.over():
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.03, clock.left_share(0.35))
        pictures = source.batch(batch)
        latents = encode(vae, pictures)
        decoded = vae.decode(latents + NOISE * torch.randn_like(latents)).sample
        difference = decoded - pictures
        loss = difference.abs().mean() + 4 * difference.square().mean() + 1e-3 * latents.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                z = encode(vae, test)
                quality = psnr(vae.decode(z).sample, test)
            print(f"vae {edge}/{latent} step {step} {clock.spent / 60:.1f} min loss {loss.item():.4f} "
                  f"held-out PSNR {quality:.2f} dB latent std {z.std().item():.2f}", flush=True)
            save_state(file, vae, optimizer, clock, step)
    save_state(file, vae, optimizer, clock, step)
    vae.register_to_config(scaling_factor=1.0)
    with torch.no_grad():
        deviation = encode(vae, source.batch(256)).std().item()
    vae.register_to_config(scaling_factor=round(1 / deviation, 5))
    vae.save_pretrained(work / f"vae{edge}-{latent}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--edge", type=int, default=128)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    train(args.work, args.edge, args.latent, args.minutes, args.batch, args.rate)
