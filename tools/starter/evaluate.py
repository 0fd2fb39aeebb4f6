"""Measure the exported starter; prints a table, writes `figures.json` and `samples.png`.

- *subject*: for 100 prompts over trained subjects, the asked scene is drawn with every trained subject in turn; the
  nearest of these dataset pictures (Euclidean distance between 32x32 RGB averages) has to be the asked subject's.
- *background*: the mean colour of the picture outside the subject's box (where the layout leaves less than a cell, of
  the four corners) has to be nearest to the asked one of the twelve.
- *PSNR*: VAE reconstruction, fp16 weights in float32, of scenes of trained and of held-out subjects.
- *seconds*: one picture, 20 steps, guidance 5, two threads, median of 5.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image

import data
import vae as vae_module
from common import psnr
from subjects import BACKGROUNDS, LAYOUTS


def scenes(renderer: data.Renderer, count: int) -> list[data.Scene]:
    """Own colours, any background and layout; every subject at most once while they last."""
    rng = random.Random(2026)
    order = rng.sample(range(len(renderer.subjects)), min(count, len(renderer.subjects)))
    order += [rng.randrange(len(renderer.subjects)) for _ in range(count - len(order))]
    return [data.Scene(i, "", rng.choice(list(BACKGROUNDS)), *(("", "") if rng.random() < 0.5 else
                                                               rng.choice(list(LAYOUTS)))) for i in order]


def wording(scene: data.Scene, subjects: list[data.Subject]) -> str:
    words = data.article(" ".join(part for part in (scene.size, scene.hue, subjects[scene.subject].name) if part))
    return f"{words}{', ' + scene.position if scene.position else ''} on a {scene.background} background"


def feature(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX), np.float32).ravel()


def background(picture: np.ndarray, scene: data.Scene) -> str:
    cells, left, top = LAYOUTS[scene.size, scene.position]
    cell = picture.shape[0] // 8
    outside = np.ones(picture.shape[:2], bool)
    outside[top * cell:(top + cells) * cell, left * cell:(left + cells) * cell] = False
    if not outside.any():
        for y in (0, -1):
            for x in (0, -1):
                outside[y, x] = True
    mean = picture[outside].mean(0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(mean - BACKGROUNDS[name]).sum()))


def paint(pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int = 20) -> list[np.ndarray]:
    pictures = []
    for start in range(0, len(prompts), 20):
        part = prompts[start:start + 20]
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        pictures += [np.asarray(image) for image in pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images]
    return pictures


def judge(renderer: data.Renderer, wanted: list[data.Scene], pictures: list[np.ndarray]) -> tuple[float, float]:
    right, coloured = 0, 0
    for scene, picture in zip(wanted, pictures, strict=True):
        seen = feature(picture)
        distances = [float(np.square(seen - feature(renderer.draw(
            data.Scene(i, scene.hue, scene.background, scene.size, scene.position)))).sum())
            for i in range(len(renderer.subjects))]
        right += int(np.argmin(distances)) == scene.subject
        coloured += background(picture, scene) == scene.background
    return right / len(wanted), coloured / len(wanted)


def reconstruction(pipeline: StableDiffusionPipeline, pictures: torch.Tensor) -> float:
    with torch.no_grad():
        latents = pipeline.vae.encode(pictures).latent_dist.mode()
        return psnr(pipeline.vae.decode(latents).sample, pictures)


def speed(pipeline: StableDiffusionPipeline) -> float:
    seconds = []
    for seed in range(5):
        start = time.monotonic()
        paint(pipeline, [f"a cat, number {seed}"], 5.0)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def sheet(pictures: list[np.ndarray], columns: int) -> Image.Image:
    rows = [np.concatenate(pictures[i:i + columns], axis=1) for i in range(0, len(pictures), columns)]
    image = Image.fromarray(np.concatenate(rows))
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)


def evaluate(work: Path, folder: Path, guidance: float, count: int) -> dict[str, float]:
    torch.set_num_threads(2)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    root = data.fetch(work)
    renderer = data.Renderer(data.trained(root), vae_module.EDGE)
    wanted = scenes(renderer, count)
    pictures = paint(pipeline, [wording(scene, renderer.subjects) for scene in wanted], guidance)
    subject, colour = judge(renderer, wanted, pictures)
    sheet(pictures[:24], 8).save(folder / "samples.png")
    known = vae_module.Pictures(root, 99, main_share=1.0).batch(100)
    figures = {
        "prompts": count, "guidance": guidance, "subject_right": subject, "background_right": colour,
        "psnr_trained_db": round(reconstruction(pipeline, known), 2),
        "psnr_held_out_db": round(reconstruction(pipeline, vae_module.held_out_batch(root)), 2),
        "seconds_20_steps": round(speed(pipeline), 2)}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "samples.txt").write_text("".join(wording(s, renderer.subjects) + "\n" for s in wanted[:24]))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "starter")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    for name, value in evaluate(args.work, args.folder, args.guidance, args.count).items():
        print(f"{name:20} {value}")
