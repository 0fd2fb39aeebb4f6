"""Tiny models of real architectures with random weights, made once per machine in the test cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_writer
import numpy as np
import tekken
from gguf_writer import write_gguf

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 64, 2, 4, 2, 128, 4096
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'] }}[/SYSTEM_PROMPT]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endif %}{% endfor %}")


def cache() -> Path:
    """Folder of this version of the files that make the models."""
    root = Path(os.environ.get("DIPTYCH_TEST_CACHE") or Path.home() / ".cache" / "diptych-tests")
    sources = b"".join(Path(str(module)).read_bytes() for module in (__file__, tekken.__file__, gguf_writer.__file__))
    return root / "tiny" / hashlib.sha256(sources).hexdigest()[:12]


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` in the cache, made if it is not there; whole or not at all, also when several make it at once."""
    path = cache() / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{path.name}.{os.getpid()}")
        make(work)
        work.replace(path)
    return path


def mistral(version: str) -> Path:
    """A Mistral model of two layers with the real Tekken vocabulary and the control tokens of `version`."""
    return made(f"mistral-{version}/tiny-mistral-{version}.gguf",
                lambda path: write_gguf(path, {**llama_fields(version), **tekken.header(version, MISTRAL_TEMPLATE)},
                                        llama_weights(tekken.SIZE)))


def llama_fields(name: str) -> dict[str, Any]:
    return {
        "general.architecture": "llama", "general.name": f"Tiny Mistral {name}", "general.type": "model",
        "llama.context_length": CONTEXT, "llama.embedding_length": HIDDEN, "llama.block_count": LAYERS,
        "llama.feed_forward_length": FFN, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HIDDEN // HEADS, "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": tekken.SIZE, "general.file_type": 0,
    }


def llama_weights(vocabulary: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    kv = HIDDEN // HEADS * KV_HEADS

    def matrix(rows: int, columns: int, scale: float = 0.2) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    weights = {"token_embd.weight": matrix(vocabulary, HIDDEN, 1.0), "output_norm.weight": np.ones(HIDDEN, np.float32)}
    for layer in range(LAYERS):
        weights |= {
            f"blk.{layer}.attn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{layer}.attn_q.weight": matrix(HIDDEN, HIDDEN), f"blk.{layer}.attn_k.weight": matrix(kv, HIDDEN),
            f"blk.{layer}.attn_v.weight": matrix(kv, HIDDEN),
            f"blk.{layer}.attn_output.weight": matrix(HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{layer}.ffn_gate.weight": matrix(FFN, HIDDEN), f"blk.{layer}.ffn_up.weight": matrix(FFN, HIDDEN),
            f"blk.{layer}.ffn_down.weight": matrix(HIDDEN, FFN),
        }
    return weights


def lora(model: Path, seed: int = 2, rank: int = 4, scale: float = 1.0) -> Path:
    """A LoRA adapter for the tiny models, beside `model`."""
    def make(path: Path) -> None:
        rng = np.random.default_rng(seed)
        tensors = {}
        for layer in range(LAYERS):
            name = f"blk.{layer}.ffn_down.weight"
            tensors[f"{name}.lora_a"] = (rng.standard_normal((rank, FFN)) * scale).astype(np.float32)
            tensors[f"{name}.lora_b"] = (rng.standard_normal((HIDDEN, rank)) * scale).astype(np.float32)
        write_gguf(path, {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
                          "adapter.lora.alpha": float(rank)}, tensors)

    return made(f"{model.parent.name}/tiny-lora.gguf", make)


PICTURE_TOKENS = 16


def projector(model: Path) -> Path:
    """A CLIP vision tower with LLaVA's projection (pictures of 64 pixels in patches of 16, so always 16 tokens) for the
    tiny models, beside `model`."""
    def make(path: Path) -> None:
        rng = np.random.default_rng(3)

        def matrix(*shape: int) -> np.ndarray:
            return (rng.standard_normal(shape) * 0.2).astype(np.float32)

        fields: dict[str, Any] = {
            "general.architecture": "clip", "general.type": "mmproj", "general.file_type": 0,
            "clip.has_vision_encoder": True, "clip.projector_type": "mlp", "clip.use_gelu": True,
            "clip.vision.image_size": 64, "clip.vision.patch_size": 16, "clip.vision.embedding_length": HIDDEN,
            "clip.vision.feed_forward_length": FFN, "clip.vision.block_count": 2, "clip.vision.projection_dim": HIDDEN,
            "clip.vision.attention.head_count": HEADS, "clip.vision.attention.layer_norm_epsilon": 1e-5,
            "clip.vision.image_mean": [0.5, 0.5, 0.5], "clip.vision.image_std": [0.25, 0.25, 0.25],
        }
        tensors = {"v.patch_embd.weight": matrix(HIDDEN, 3, 16, 16), "v.class_embd": matrix(HIDDEN),
                   "v.position_embd.weight": matrix(PICTURE_TOKENS + 1, HIDDEN)}
        for name, rows, columns in (("mm.0", HIDDEN, HIDDEN), ("mm.2", HIDDEN, HIDDEN), ("v.pre_ln", HIDDEN, 0),
                                    *(item for layer in range(2) for item in _clip_layer(f"v.blk.{layer}"))):
            tensors[f"{name}.weight"] = matrix(rows, columns) if columns else np.ones(rows, np.float32)
            tensors[f"{name}.bias"] = matrix(rows)
        write_gguf(path, fields, tensors)

    return made(f"{model.parent.name}/mmproj-tiny.gguf", make)


def _clip_layer(name: str) -> list[tuple[str, int, int]]:
    return [*((f"{name}.attn_{part}", HIDDEN, HIDDEN) for part in ("q", "k", "v", "out")),
            (f"{name}.ln1", HIDDEN, 0), (f"{name}.ln2", HIDDEN, 0), (f"{name}.ffn_up", FFN, HIDDEN),
            (f"{name}.ffn_down", HIDDEN, FFN)]
