"""What a GGUF language model can do, from its header and the files beside it."""

from __future__ import annotations

import re
from pathlib import Path

from diptych.core.cards import AdapterFile, Dialect, Task
from diptych.library.gguf import BadFile, GgufHeader, read_gguf

TOKENS = "tokenizer.ggml.tokens"
TEMPLATE = "tokenizer.chat_template"
EMBEDDERS = {"bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "modern-bert",
             "eurobert", "gemma-embedding"}
"""Architectures that make vectors and continue no text."""
RANK_POOLING = 4
"""llama.cpp's number of the pooling of rerankers."""
_SIDE = re.compile(r"mmproj|lora|adapter")
_MARKS: tuple[tuple[str, Dialect], ...] = (
    ("[TOOL_CALLS]", "mistral"), ("<|python_tag|>", "llama3"), (">>>all", "functionary"),
    ("<｜tool▁calls▁begin｜>", "deepseek"), ("<|tool_call|>", "granite"), ("<tool_call>", "hermes"),
)
_TEKKEN = (("[THINK]", "mistral-v13"), ("[ARGS]", "mistral-v11"), ("[SYSTEM_PROMPT]", "mistral-v7"),
           ("[TOOL_CALLS]", "mistral-v3"))
"""The newest control token that a Tekken vocabulary has, and mistral-common's version of the prompt. Small 3.2 has
[ARGS]; Magistral and later have [THINK] too."""


def tasks(header: GgufHeader) -> tuple[Task, ...]:
    """What the model is for; a chat model can also make vectors."""
    if header.number(f"{header.architecture}.pooling_type") == RANK_POOLING:
        return ("rerank",)
    if header.architecture in EMBEDDERS or header.number(f"{header.architecture}.pooling_type"):
        return ("embed",)
    return ("chat", "embed")


def mistral_tokenizer(header: GgufHeader) -> str | None:
    """Version of mistral-common's prompts, for models with Mistral's Tekken vocabulary; None for all others."""
    if header.text("tokenizer.ggml.pre") != "tekken":
        return None
    tokens = header.heads.get(TOKENS, ())
    return next((version for token, version in _TEKKEN if token in tokens), None)


def dialect(header: GgufHeader) -> Dialect | None:
    """How the model's template writes tool calls; None where it knows none."""
    if mistral_tokenizer(header) is not None:
        return "mistral"
    return template_dialect(header.text(TEMPLATE) or "")


def template_dialect(template: str) -> Dialect | None:
    """How a chat template writes tool calls; None where it knows none."""
    return next((name for mark, name in _MARKS if mark in template), None)


def takes_tools(header: GgufHeader) -> bool:
    """Whether the template writes the list of tools into the prompt."""
    template = header.text(TEMPLATE) or ""
    return mistral_tokenizer(header) is not None or "tools" in template


def projector(path: Path, header: GgufHeader) -> Path | None:
    """The file with "mmproj" in its name in the folder of the model at `path` whose output has the model's width; None
    without one."""
    width = header.number(f"{header.architecture}.embedding_length")
    for file, other in _beside(path):
        made = other.number("clip.vision.projection_dim")
        if other.architecture in ("clip", "mmproj") and made in (None, 0, width):
            return file
    return None


def adapters(path: Path, header: GgufHeader) -> tuple[AdapterFile, ...]:
    """LoRA adapters for this architecture in the folder of the model at `path` (with "lora" or "adapter" in the file's
    name), by name."""
    return tuple(
        AdapterFile(id=file.stem, path=str(file)) for file, other in _beside(path)
        if is_adapter(other) and other.architecture == header.architecture)


def is_adapter(header: GgufHeader) -> bool:
    return header.text("general.type") == "adapter"


def files_beside(path: Path) -> list[Path]:
    """GGUF files in the folder of `path` that may be adapters or projectors of it. Told by their names, so that a
    folder of a hundred models does not have every header read a hundred times."""
    return sorted(file for file in path.parent.glob("*.gguf")
                  if file != path and _SIDE.search(file.name.lower()) and file.is_file())


def _beside(path: Path) -> list[tuple[Path, GgufHeader]]:
    found = []
    for file in files_beside(path):
        try:
            found.append((file, read_gguf(file)))
        except (BadFile, OSError):
            continue  # it is reported where it is looked at for itself
    return found
