"""What the library knows about a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Panel = Literal["text", "image"]
Task = Literal["chat", "embed", "rerank"]
Dialect = Literal["mistral", "hermes", "llama3", "functionary", "deepseek", "granite"]
"""How a model family writes tool calls: Mistral's control tokens, `<tool_call>` with JSON (Hermes, Qwen),
`<|python_tag|>` (Llama 3) …; read from the chat template."""


class AdapterFile(BaseModel):
    """A LoRA adapter that lies beside its model; `id` is what a request names."""

    model_config = ConfigDict(frozen=True)

    id: str
    path: str


class Card(BaseModel):
    """A model on disk. `family` names the engine file that serves it ("sd1", "gguf"); `bytes` is the size of its
    weights in files; `size` is the model's own picture size in pixels; `multiple` is what width and height must be
    divisible by; `context` is the trained context length in tokens; `text_width` is the width of the text context that
    an image model attends to, which tells what adapters fit.

    Of image models: `architecture` is "sd1", "sd2", "sdxl", "sdxl-refiner", or the name of diffusers' pipeline;
    `inpaint`: the UNet is told the mask and what is around it; `samplers`: those it can use, where not all.

    Of text models: `tasks` is what it can do; `architecture` is llama.cpp's name; `dialect` is how its template writes
    tool calls (None: it knows no tools); `tools`: the template takes the list of tools itself, so nobody else has to
    write it into the prompt; `tokenizer` is "mistral-v3", "mistral-v7", "mistral-v11" or "mistral-v13" where prompts
    are mistral-common's; `projector` is the file that turns pictures into tokens, and `vision` that there is one;
    `adapters` are LoRA files beside it; `embedding` is the length of its vectors.

    A model of another server has the format "upstream"; its `path` is the name of that server in the settings, its
    `name` what that server calls it."""

    model_config = ConfigDict(frozen=True)

    id: str
    panel: Panel
    family: str
    format: Literal["diffusers", "checkpoint", "gguf", "safetensors", "upstream"]
    path: str
    bytes: int = Field(ge=0)
    name: str = ""
    license: str | None = None
    size: int | None = None
    multiple: int | None = None
    text_width: int | None = None
    inpaint: bool = False
    samplers: tuple[str, ...] = ()
    context: int | None = None
    parameters: int | None = None
    tasks: tuple[Task, ...] = ()
    architecture: str | None = None
    dialect: Dialect | None = None
    tools: bool = False
    tokenizer: str | None = None
    vision: bool = False
    projector: str | None = None
    adapters: tuple[AdapterFile, ...] = ()
    embedding: int | None = None
    fingerprint: str = ""
    """Short SHA-256 of the weights' headers and sizes: tells one model from another without reading it whole."""


PartKind = Literal["lora", "embedding", "vae", "controlnet", "t2i_adapter", "ip_adapter", "image_encoder", "upscaler",
                   "detector", "network"]


class PartCard(BaseModel):
    """A file, or a folder in the layout of diffusers, that is used together with an image model. A `network` is an ONNX
    file, which is used by its name. `family`: of the models that it fits ("sd1", "sd2", "sdxl" …); None where that does
    not matter. `triggers`: words that an adapter was trained on, the most frequent first. `text_width`: of the text
    context that it was made for, or of an embedding's vectors; `channels`: of the latents of a VAE."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: PartKind
    path: str
    bytes: int = Field(ge=0)
    family: str | None = None
    name: str = ""
    license: str | None = None
    rank: int | None = None
    text_width: int | None = None
    channels: int | None = None
    triggers: tuple[str, ...] = ()
    fingerprint: str = ""
