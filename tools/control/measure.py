"""Measure the starter's ControlNet and write its card.

Over 50 scenes, the prompt names the subject and the background, but neither size nor position; the asked edges are
those of the scene, whose size and position are drawn at random (Canny, thresholds 100 and 200). A picture is made with
control and, from the same seed, without; its edges are found in the same way. *F1*: the harmonic mean of precision (how
many of the picture's edge pixels have an asked one within one pixel) and recall (the other way round), over all pixels
of all pictures. `--out` copies the weights as fp16 into a folder, with figures, samples and card.
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
from controlnet import ROOT, edges
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline
from PIL import Image

sys.path.insert(0, str(ROOT / "tools" / "starter"))

import data
import vae
from subjects import LAYOUTS

LOW, HIGH = 100, 200
LIMIT = 20_000_000
CARD = """\
---
license: mit
library_name: diffusers
pipeline_tag: image-to-image
---

# starter-canny: a ControlNet for Diptych's starter

It makes the starter's pictures follow edges, as the ControlNets of Stable Diffusion do (Zhang et al. 2023,
https://arxiv.org/abs/2302.05543), and loads as they do: `ControlNetModel.from_pretrained("starter-canny")`. Give it
Canny's edges of a 64x64 picture, white on black.

![Asked edges, result, result without control](samples.png)

*The first 12 of the evaluation, not picked: asked edges above, the picture with control in the middle, that of the
same prompt and seed without control below; enlarged twice.*

| what | figure | how |
|---|---|---|
| edges of the result against the asked ones, F1 | **{f1_with:.2f}** | {count} prompts, 1 pixel of tolerance |
| the same pictures without control | {f1_without:.2f} | same prompts and seeds |
| precision and recall with control | {precision_with:.2f}, {recall_with:.2f} | |

The prompts name subject and background, neither size nor position: those are in the edges alone. Canny {low}/{high};
Euler, {steps} steps, guidance {guidance:g}. Measured by `tools/control/measure.py` on the fp16 file of this folder,
computed in float32.

{parameters:.1f} M parameters: the encoder of the starter's UNet and zero convolutions. Trained by
`tools/control/controlnet.py`: {samples:,} scenes in {train_steps:,} steps, {minutes:.0f} minutes on {threads} CPU
thread(s) that other work had a share of; the mean loss of the last 100 steps was {loss:.4f}. Data and licences are
those of the starter.
"""


def found_share(of: np.ndarray, within: np.ndarray) -> tuple[int, int]:
    """How many edge pixels of one map have one of the other within a pixel, and how many there are."""
    near = cv2.dilate(within, np.ones((3, 3), np.uint8))
    return int(((of > 0) & (near > 0)).sum()), int((of > 0).sum())


def scores(asked: list[np.ndarray], pictures: list[np.ndarray]) -> tuple[float, float, float]:
    """Precision, recall and F1 over all edge pixels."""
    made = [edges(picture, LOW, HIGH) for picture in pictures]
    right = np.array([(*found_share(m, a), *found_share(a, m)) for a, m in zip(asked, made, strict=True)]).sum(axis=0)
    precision, recall = right[0] / max(right[1], 1), right[2] / max(right[3], 1)
    return float(precision), float(recall), float(2 * precision * recall / max(precision + recall, 1e-9))


def paint(pipeline: StableDiffusionControlNetPipeline, prompts: list[str], maps: list[np.ndarray], scale: float,
          steps: int, guidance: float) -> list[np.ndarray]:
    pictures = []
    for start in range(0, len(prompts), 10):
        part = slice(start, start + 10)
        hints = [Image.fromarray(np.repeat(one[:, :, None], 3, axis=2)) for one in maps[part]]
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(hints))]
        pictures += [np.asarray(image) for image in pipeline(
            prompts[part], image=hints, num_inference_steps=steps, guidance_scale=guidance, generator=seeds,
            controlnet_conditioning_scale=scale).images]
    return pictures


def measure(work: Path, weights: Path, starter: Path, count: int, steps: int,
            guidance: float) -> tuple[dict[str, float], Image.Image]:
    control = ControlNetModel.from_pretrained(weights, torch_dtype=torch.float32)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        starter, controlnet=control, torch_dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    renderer = data.Renderer(data.trained(data.fetch(work)), vae.EDGE)
    rng = random.Random(2027)
    scenes = [dataclasses.replace(renderer.random_scene(rng), size=size, position=position)
              for size, position in (rng.choice(list(LAYOUTS)) for _ in range(count))]
    asked = [edges(renderer.draw(scene), LOW, HIGH) for scene in scenes]
    names = [f"{scene.hue} {renderer.subjects[scene.subject].name}".strip() for scene in scenes]
    prompts = [f"{data.article(name)} on a {scene.background} background"
               for name, scene in zip(names, scenes, strict=True)]
    with_control = paint(pipeline, prompts, asked, 1.0, steps, guidance)
    without = paint(pipeline, prompts, asked, 0.0, steps, guidance)
    precision, recall, f1 = scores(asked, with_control)
    figures = {"count": count, "steps": steps, "guidance": guidance, "f1_with": f1, "precision_with": precision,
               "recall_with": recall, "f1_without": scores(asked, without)[2],
               "parameters": sum(p.numel() for p in control.parameters()) / 1e6}
    return figures, sheet(asked, with_control, without)


def sheet(asked: list[np.ndarray], with_control: list[np.ndarray], without: list[np.ndarray]) -> Image.Image:
    maps = [np.repeat(one[:, :, None], 3, axis=2) for one in asked]
    rows = [np.concatenate(row[:12], axis=1) for row in (maps, with_control, without)]
    image = Image.fromarray(np.concatenate(rows))
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)


def export(work: Path, folder: Path, live: bool) -> None:
    """The averaged weights as fp16, or with `live` those of the last step: an average still holds what was learned
    from other captions for hundreds of steps."""
    control = ControlNetModel.from_pretrained(work / "controlnet", torch_dtype=torch.float32)
    if live:
        control.load_state_dict(torch.load(work / "controlnet.pt", weights_only=True)["model"])
    control.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"
    told = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
    size = (folder / "diffusion_pytorch_model.safetensors").stat().st_size
    if size > LIMIT:
        raise SystemExit(f"the weights have {size:,} bytes; at most {LIMIT:,} may ship")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--starter", type=Path, default=ROOT / "starter")
    parser.add_argument("--out", type=Path, help="folder of the shipped model; without it only figures are printed")
    parser.add_argument("--live", action="store_true", help="export the last weights instead of the averaged ones")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    args = parser.parse_args()
    weights = args.work / "controlnet"
    log = json.loads((weights / "training.json").read_text())
    if args.out is not None:
        export(args.work, args.out, args.live)
    figures, samples = measure(args.work, args.out or weights, args.starter, args.count, args.steps, args.guidance)
    print(json.dumps(figures))
    samples.save((args.out or args.work) / "samples.png")
    if args.out is not None:
        (args.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        (args.out / "README.md").write_text(CARD.format(
            **figures, low=LOW, high=HIGH, samples=log["samples"], train_steps=log["steps"], minutes=log["minutes"],
            threads=log["threads"], loss=log["loss"]))


if __name__ == "__main__":
    main()
