"""Build and train the starter's VAE (AutoencoderKL, 8x down, 64x64 pictures).

The encoder is not trained: its weights are *set* so that it computes the leading principal components of 8x8 pixel
patches. That costs a second instead of hours, and the UNet can be trained beside the decoder, since the latents
never change. Only the decoder is trained: L1 + 4·L2 on pixels, from latents with a little Gaussian noise (`NOISE`), so
that it forgives the small errors of a small UNet.

How a convolutional encoder with GroupNorm and SiLU becomes linear: residual branches end in zero; the stride-2
convolutions gather 2x2 neighbours into channels; before the last GroupNorm every component comes as a pair (+c, -c)
beside a large constant pair (+K, -K), so that mean is 0 and the standard deviation constant; and
SiLU(c) - SiLU(-c) = c.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import unfold

import data
from common import Clock, load_state, psnr, save_state

EDGE, PATCH, LATENT = 64, 8, 24
CHANNELS = (16, 32, 64, 128)
GROUPS = 8
NOISE = 0.1
WHITENING = 0.65
"""Components are divided by their standard deviation to this power: 1 would give fine detail the weight of colour."""
LARGE = 60.0


def build() -> AutoencoderKL:
    count = len(CHANNELS)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=LATENT, block_out_channels=CHANNELS, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * count, up_block_types=("UpDecoderBlock2D",) * count,
        norm_num_groups=GROUPS, sample_size=EDGE, mid_block_add_attention=False, force_upcast=False,
        scaling_factor=1.0)


class Pictures:
    """Random batches: scenes of trained subjects, and a share of every other emoji that is not held out."""

    def __init__(self, root: Path, seed: int, main_share: float = 0.6) -> None:
        self.rng = random.Random(seed)
        self.share = main_share
        self.main = data.Renderer(data.trained(root), EDGE)
        self.rest = data.Renderer([data.Subject("", (), file) for file in data.other_pictures(root)], EDGE)

    def batch(self, count: int) -> Tensor:
        """float32 `[count, 3, EDGE, EDGE]` in -1..1."""
        pictures = []
        for _ in range(count):
            source = self.main if self.rng.random() < self.share else self.rest
            pictures.append(source.draw(source.random_scene(self.rng)))
        return to_tensor(np.stack(pictures))


def to_tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def held_out_batch(root: Path) -> Tensor:
    renderer = data.Renderer(data.held_out(root), EDGE)
    rng = random.Random(7)
    return to_tensor(np.stack([renderer.draw(renderer.random_scene(rng, i))
                               for i in range(len(renderer.subjects))]))


def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Mean of the posterior, `[n, LATENT, 8, 8]`, scaled to about unit variance."""
    return vae.quant_conv(vae.encoder(pictures)).chunk(2, dim=1)[0] * vae.config.scaling_factor


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Leading `count` principal directions `[dims, count]` of the rows around 0, with their variances."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return vectors.flip(1)[:, :count], values.flip(0)[:count]


def _patches(pictures: Tensor, edge: int) -> Tensor:
    """`[n * patches, edge * edge * 3]`, values in the order (row, column, channel)."""
    columns = unfold(pictures, edge, stride=edge).transpose(1, 2)
    n, count, _ = columns.shape
    return columns.reshape(n * count, pictures.shape[1], edge * edge).transpose(1, 2).reshape(n * count, -1)


def _silence_residuals(module: nn.Module) -> None:
    for block in module.modules():
        if type(block).__name__ == "ResnetBlock2D":
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)


def _set_linear(conv: nn.Conv2d, weight: Tensor, taps: int) -> None:
    """`weight` `[out, taps * taps * in]` in the order (row, column, channel) becomes the upper left of the kernel."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    out, inner = weight.shape[0], weight.shape[1] // (taps * taps)
    block = weight.reshape(out, taps, taps, inner).permute(0, 3, 1, 2)
    start = 1 if conv.kernel_size[0] == 3 and taps == 1 else 0
    conv.weight.data[:out, :inner, start:start + taps, start:start + taps] = block


@torch.no_grad()
def set_encoder(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Write the principal components of the 8x8 patches of `pictures` into the encoder's weights."""
    encoder = vae.encoder
    _silence_residuals(encoder)
    _set_linear(encoder.conv_in, torch.eye(3), 1)
    level = [block.downsamplers[0].conv for block in encoder.down_blocks[:3]]
    shortcut = [block.resnets[0].conv_shortcut for block in encoder.down_blocks[1:]]
    _set_linear(level[0], torch.eye(12), 2)
    _set_linear(shortcut[0], torch.eye(12), 1)
    quarter, _ = _principal(_patches(pictures, 4), 32)
    regroup = _patches_order(quarter)
    _set_linear(level[1], regroup.T, 2)
    _set_linear(shortcut[1], torch.eye(32), 1)
    # The last step is fitted to the exact components, given what the step before has kept.
    target, variance = _principal(_patches(pictures, 8), LATENT)
    wanted = _patches(pictures, 8) @ (target / variance.sqrt().pow(WHITENING))
    kept = _nested_patches(pictures, regroup)
    solution = torch.linalg.lstsq(kept, wanted).solution
    _set_linear(level[2], solution.T, 2)
    _set_pairs(encoder, shortcut[2])
    _set_linear(vae.quant_conv, torch.eye(LATENT), 1)
    vae.quant_conv.bias.data[LATENT:] = 2 * float(np.log(NOISE))
    vae.register_to_config(scaling_factor=1.0)
    deviation = float(encode(vae, pictures[:512]).std())
    vae.register_to_config(scaling_factor=round(1 / deviation, 5))
    vae.quant_conv.bias.data[LATENT:] += 2 * float(np.log(deviation))


def _patches_order(quarter: Tensor) -> Tensor:
    """Directions over (row4, column4, channel) in the order of two nested 2x2 gatherings."""
    order = torch.arange(48).reshape(2, 2, 2, 2, 3).permute(0, 2, 1, 3, 4).reshape(-1)
    return quarter[order]


def _gather(pictures: Tensor) -> Tensor:
    """Space to depth by 2 with channels in the order (row, column, channel)."""
    n, c, h, w = pictures.shape
    cells = pictures.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(n, 4 * c, h // 2, w // 2)


def _nested_patches(pictures: Tensor, regroup: Tensor) -> Tensor:
    """What the encoder's last strided convolution sees: `[n * 64, 128]`."""
    inner = torch.einsum("nchw,ck->nkhw", _gather(_gather(pictures)), regroup)
    return _gather(inner).permute(0, 2, 3, 1).reshape(-1, 4 * regroup.shape[1])


def _set_pairs(encoder: nn.Module, shortcut: nn.Conv2d) -> None:
    nn.init.zeros_(shortcut.weight)
    nn.init.zeros_(shortcut.bias)
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    width = CHANNELS[-1] // GROUPS
    pairs = width // 2 - 1
    scale = LARGE * (2 / width) ** 0.5
    for group in range(GROUPS):
        first = group * width
        shortcut.bias.data[first], shortcut.bias.data[first + 1] = LARGE, -LARGE
        for slot in range(pairs):
            component = slot * GROUPS + group
            if component >= LATENT:
                continue
            plus = first + 2 + 2 * slot
            shortcut.weight.data[plus, component, 0, 0] = 1
            shortcut.weight.data[plus + 1, component, 0, 0] = -1
            encoder.conv_out.weight.data[component, plus, 1, 1] = scale
            encoder.conv_out.weight.data[component, plus + 1, 1, 1] = -scale


def prepare(work: Path) -> AutoencoderKL:
    """The VAE with its encoder set and its decoder as it starts; saved as `vae-start`, loaded where it is there."""
    folder = work / "vae-start"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder)
    torch.manual_seed(0)
    vae = build()
    set_encoder(vae, Pictures(data.fetch(work), 0).batch(1500))
    _silence_residuals(vae.decoder)
    vae.save_pretrained(folder)
    return vae


def train(work: Path, minutes: float, batch: int, rate: float) -> None:
    root = data.fetch(work)
    vae = prepare(work)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    optimizer = torch.optim.AdamW(decoder.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.0)
    clock = Clock(minutes)
    step = load_state(work / "decoder.pt", decoder, optimizer, clock)
    source, test = Pictures(root, seed=step), held_out_batch(root)
    while not clock.over():
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.02, clock.left_share(0.5))
        with torch.no_grad():
            pictures = source.batch(batch)
            latents = encode(vae, pictures)
        noisy = latents + NOISE * torch.randn_like(latents) * random.random()
        difference = vae.decode(noisy / vae.config.scaling_factor).sample - pictures
        loss = difference.abs().mean() + 4 * difference.square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 200 == 0:
            with torch.no_grad():
                quality = psnr(vae.decode(encode(vae, test) / vae.config.scaling_factor).sample, test)
            print(f"decoder step {step} {clock.spent / 60:.1f} min loss {loss.item():.4f} "
                  f"held-out PSNR {quality:.2f} dB", flush=True)
            save_state(work / "decoder.pt", decoder, optimizer, clock, step)
    save_state(work / "decoder.pt", decoder, optimizer, clock, step)
    vae.save_pretrained(work / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    train(args.work, args.minutes, args.batch, args.rate)
