"""What a model will need and how long a job will take, from file sizes and from what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.core.cards import Card
from diptych.core.specs import ImageSpec
from diptych.settings import Settings

IMAGE_BASE = 600 * 2**20
"""Bytes of an image runner before it holds weights: the libraries (450 MB were measured) and a step's activations."""
TEXT_BASE = 150 * 2**20
CACHE_PER_TOKEN = 64 * 2**10
"""Bytes of KV cache per token where nothing better is known; SmolLM2-135M was measured at about 24 KiB."""
CONTEXT = 8192


def bytes_needed(card: Card, settings: Settings, measured: Mapping[tuple[str, str], float]) -> int:
    """Memory that a runner of `card` will hold: the measured peak, else an estimate from its files."""
    known = measured.get((card.fingerprint or card.id, "peak"))
    if known is not None:
        return int(known)
    if card.panel == "image":
        return IMAGE_BASE + 2 * card.bytes  # half precision files are computed in float32 on a CPU
    context = settings.text_context or min(card.context or CONTEXT, CONTEXT)
    return TEXT_BASE + card.bytes + context * settings.text_slots * CACHE_PER_TOKEN


def speed_shape(spec: ImageSpec) -> str:
    """The key under which seconds per step are kept."""
    return f"{spec.width}x{spec.height}"


def seconds_needed(spec: ImageSpec, measured: Mapping[tuple[str, str], float], done: float = 0.0) -> float | None:
    """Seconds of work left in a job of which the share `done` is done; None where its speed was never measured."""
    per_step = measured.get((spec.model, speed_shape(spec)))
    return None if per_step is None else per_step * spec.steps * spec.count * (1 - done)
