"""What the library knows about a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Panel = Literal["text", "image"]


class Card(BaseModel):
    """A model on disk. `family` names the engine file that serves it ("sd1", "gguf"); `bytes` is the size of its
    weights in files; `size` is the model's own picture size in pixels; `multiple` is what width and height must be
    divisible by; `context` is the trained context length in tokens."""

    model_config = ConfigDict(frozen=True)

    id: str
    panel: Panel
    family: str
    format: Literal["diffusers", "gguf", "safetensors"]
    path: str
    bytes: int = Field(ge=0)
    name: str = ""
    license: str | None = None
    size: int | None = None
    multiple: int | None = None
    context: int | None = None
    parameters: int | None = None
    fingerprint: str = ""
    """Short SHA-256 of the weights' headers and sizes: tells one model from another without reading it whole."""
