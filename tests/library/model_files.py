"""Small model files, written byte by byte from the formats' specifications."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Type number and bytes of one metadata value."""
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    kind = 8 if isinstance(item[0], str) else 4
    parts = [text(part) if kind == 8 else struct.pack("<I", part) for part in item]
    return struct.pack("<IIQ", 9, kind, len(item)) + b"".join(parts)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]] | None = None, fill: int = 0) -> bytes:
    """A GGUF file of version 3 with float32 tensors, all bytes `fill`."""
    tensors = {"weight": (32, 4)} if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    offset = 0
    for name, shape in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)
        count = 1
        for side in shape:
            count *= side
        offset += -(-count * 4 // 32) * 32
    return head + b"\0" * (-len(head) % 32) + bytes([fill]) * offset


LLAMA = {
    "general.architecture": "llama", "general.name": "Tiny", "general.license": "mit", "llama.context_length": 2048,
    "tokenizer.ggml.tokens": [f"token {number}" for number in range(500)],
    "tokenizer.ggml.scores": list(range(500)), "tokenizer.ggml.short": ["a", "b"], "tokenizer.chat_template": "{{ x }}",
}


def safetensors(shapes: dict[str, tuple[int, ...]], fill: int = 0) -> bytes:
    """A safetensors file of float16 tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        count = 2
        for side in shape:
            count *= side
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + count]}
        offset += count
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes([fill]) * offset


def write_pipeline(folder: Path, *, fill: int = 0, pipeline: str = "StableDiffusionPipeline") -> Path:
    """A diffusers folder of 100 parameters in each part, for pictures of 16 * 8 pixels."""
    parts = {
        "unet": (["diffusers", "UNet2DConditionModel"], {"sample_size": 16}, "diffusion_pytorch_model"),
        "vae": (["diffusers", "AutoencoderKL"], {"block_out_channels": [8, 8, 8, 8]}, "diffusion_pytorch_model"),
        "text_encoder": (["transformers", "CLIPTextModel"], {}, "model"),
    }
    index = {name: kind for name, (kind, _, _) in parts.items()}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"],
              "safety_checker": [None, None]}  # type: ignore[list-item]
    for name, (_, config, weights) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        (folder / name / f"{weights}.safetensors").write_bytes(safetensors({"weight": (10, 10)}, fill))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, "_version": "0.1", **index}))
    return folder
