"""Where a GPU is: pictures of 512x512 by a model of Stable Diffusion 1.5's shape with random weights, in half
precision, for 1, 4 and 16 clients at once, against diffusers, with and without torch.compile.

    python bench/gpu.py [--rounds N] [--steps N] [--device cuda] [--clients 1,4,16] [--quick]

Diffusers twice: one picture after the other, as a pipeline serves clients that come at different times, and all in one
batch, which it can only do for requests that have everything but the seed in common. Without a GPU it says so and
measures nothing; `--quick` runs all of it on the CPU with a tiny model, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import queue
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import harness

PROMPT = "a lighthouse in a storm"
SHAPES: dict[bool, dict[str, Any]] = {
    False: {"unet": (320, 640, 1280, 1280), "cross": 768, "layers": 2, "clip": (768, 3072, 12, 12, 77),
            "vae": (128, 256, 512, 512), "groups": 32, "sample": 64},
    True: {"unet": (8, 16, 16, 16), "cross": 16, "layers": 1, "clip": (16, 32, 1, 2, 77), "vae": (8, 8, 8, 8),
           "groups": 4, "sample": 8},
}


def device_found() -> str | None:
    """The accelerator that torch can use, or None."""
    if torch.cuda.is_available():
        return "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else None


def write_model(folder: Path, quick: bool, dtype: torch.dtype) -> Path:
    """A Stable Diffusion 1.5 folder with random weights."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = SHAPES[quick]
    torch.manual_seed(0)
    words = _tokenizer(folder / "words")
    hidden, inner, layers, heads, window = shape["clip"]
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=window, projection_dim=hidden,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id))
    unet = UNet2DConditionModel(
        sample_size=shape["sample"], block_out_channels=shape["unet"], layers_per_block=shape["layers"],
        cross_attention_dim=shape["cross"], attention_head_dim=8 if not quick else 4,
        norm_num_groups=shape["groups"])
    vae = AutoencoderKL(
        block_out_channels=shape["vae"], layers_per_block=shape["layers"], norm_num_groups=shape["groups"],
        latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                       steps_offset=1)
    StableDiffusionPipeline(
        vae=vae.to(dtype), text_encoder=text_encoder.to(dtype), tokenizer=words, unet=unet.to(dtype),
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False).save_pretrained(folder / "model")
    return folder / "model"


def _tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with single letters only: the prompt's length is what matters here, and it is padded."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


class Diffusers:
    """The pipeline, as its documentation shows it."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, steps: int) -> None:
        from diffusers import StableDiffusionPipeline

        self._pipe = StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, safety_checker=None, torch_dtype=dtype).to(device)
        self._pipe.set_progress_bar_config(disable=True)
        self._steps = steps

    def compile(self) -> None:
        self._pipe.unet.compile()

    def in_turn(self, clients: int) -> None:
        for seed in range(clients):
            self._pipe(PROMPT, num_inference_steps=self._steps, guidance_scale=5.0,
                       generator=torch.Generator("cpu").manual_seed(seed))

    def in_one_batch(self, clients: int) -> None:
        self._pipe(PROMPT, num_inference_steps=self._steps, guidance_scale=5.0, num_images_per_prompt=clients,
                   generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(clients)])


class Diptych:
    """Our engine in this process; every client is a request of its own."""

    def __init__(self, folder: Path, device: str, dtype: str, steps: int, out: Path) -> None:
        from diptych.core.cards import Card
        from diptych.core.protocol import LoadRequest
        from diptych.engines.image.engine import ImageEngine

        self._engine, self._steps, self._out, self._count = ImageEngine(), steps, out, 0
        card = Card(id="random", panel="image", family="sd1", format="diffusers", path=str(folder), bytes=1,
                    fingerprint="0")
        self._engine.load(LoadRequest(card=card, threads=torch.get_num_threads(),
                                      options={"device": device, "dtype": dtype}))

    def compile(self) -> None:
        self._engine._model.unet.compile()  # type: ignore[union-attr]

    def at_once(self, clients: int) -> None:
        from diptych.core.events import Failed, Finished
        from diptych.core.protocol import RunRequest
        from diptych.core.specs import ImageSpec

        told: queue.Queue[Any] = queue.Queue()
        for seed in range(clients):
            self._count += 1
            self._engine.submit(RunRequest(
                id=f"run-{self._count}", output_dir=str(self._out),
                spec=ImageSpec(prompt=PROMPT, seed=seed, steps=self._steps, guidance=5.0)), told.put)
        ended = 0
        while ended < clients:
            event = told.get()
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
            ended += isinstance(event, Finished)


def measure(options: argparse.Namespace, device: str) -> tuple[list[tuple[object, ...]], dict[str, Any]]:
    """Rows of the table, and ratios of throughput by clients and compile."""
    dtype = "float32" if device == "cpu" else "float16"
    rows: list[tuple[object, ...]] = []
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = write_model(Path(place), options.quick, getattr(torch, dtype))
        theirs = Diffusers(folder, device, getattr(torch, dtype), options.steps)
        ours = Diptych(folder, device, dtype, options.steps, Path(place) / "out")
        for compiled in (False,) if options.quick else (False, True):
            if compiled:
                theirs.compile()
                ours.compile()
            for clients in options.clients:
                works: dict[str, Callable[[], object]] = {
                    "diffusers in turn": lambda clients=clients: theirs.in_turn(clients),
                    "diffusers in one batch": lambda clients=clients: theirs.in_one_batch(clients),
                    "Diptych": lambda clients=clients: ours.at_once(clients)}
                seconds = harness.alternating(options.rounds, works)
                found = {name: round(harness.median_ratio(values, seconds["Diptych"]), 3)
                         for name, values in seconds.items() if name != "Diptych"}
                ratios[f"{clients}{' compiled' if compiled else ''}"] = found
                rows += [(clients, "yes" if compiled else "no", name, f"{harness.median(values):.3f}",
                          f"{clients / harness.median(values):.3f}", found.get(name, ""))
                         for name, values in seconds.items()]
    return rows, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default=device_found(), help="as torch names it; the one that is found")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--quick", action="store_true", help="a smoke test on the CPU; its figures mean nothing")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.quick:
        options.device, options.rounds, options.steps, options.clients = "cpu", 1, 2, [1, 2]
    if options.device is None:
        print("There is no GPU here that torch can use: nothing was measured.")
        print(json.dumps({"bench": "gpu", "gpu": None, "measured": False, "machine": harness.machine()}))
        return
    rows, ratios = measure(options, options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    head = ("clients", "compiled", "way", "seconds", "pictures/s", "Diptych's throughput to its")
    harness.report("gpu", rows, head, {
        "gpu": None if options.quick else name, "measured": not options.quick, "throughput_ratios": ratios,
        "steps": options.steps, "rounds": options.rounds, "quick": options.quick})


if __name__ == "__main__":
    main()
