"""What a folder of a language model is (config.json, safetensors, a tokenizer), from its headers and JSON alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diptych.core.cards import AdapterFile, Card, Dialect, Task
from diptych.library.files import fingerprint, front_matter, read_json
from diptych.library.gguf import BadFile
from diptych.library.safetensors_header import read_safetensors
from diptych.library.text_traits import template_dialect

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
VISION = {"Mistral3ForConditionalGeneration"}
"""Architectures whose pictures are served."""
_ENCODERS = re.compile(r"(ForMaskedLM|ForPreTraining|Model)$")
_HEAD_BYTES = 4096


def is_text_folder(files: Collection[str]) -> bool:
    """Whether a folder with these files looks like one of transformers' models."""
    return CONFIG in files and any(name.endswith(".safetensors") and not name.startswith(".") for name in files)


def identify_text_folder(folder: Path) -> Card:
    """Card of a folder in the layout of transformers.

    Raises:
        BadFile: a file is missing or damaged, or it is a model of a kind that no engine serves; says which.
        OSError: a file cannot be read.
    """
    config = read_json(folder / CONFIG)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    architecture = _architecture(config)
    tekken = _tekken_version(folder)
    if not (folder / "tokenizer.json").is_file() and tekken is None:
        raise BadFile("it has no tokenizer.json and no tekken.json")
    files = _weight_files(folder)
    headers = [read_safetensors(file) for file in files]
    template, front = chat_template(folder), front_matter(folder / "README.md")
    dialect: Dialect | None = "mistral" if tekken else template_dialect(template)
    return Card(
        id=folder.name, panel="text", family="transformers", format="safetensors", path=str(folder),
        bytes=sum(file.stat().st_size for file in files), name=front.get("name") or folder.name,
        license=front.get("license"), context=_number(text, "max_position_embeddings", "n_positions"),
        parameters=sum(header.parameters for header in headers), tasks=_tasks(folder, config, architecture),
        architecture=str(config.get("model_type") or "") or None, dialect=dialect,
        tools=tekken is not None or "tools" in template, tokenizer=tekken,
        vision=architecture in VISION and tekken is not None, adapters=_adapters(folder),
        embedding=_number(text, "hidden_size", "n_embd"),
        fingerprint=fingerprint([header.header_sha256 for header in headers], files))


def chat_template(folder: Path) -> str:
    """The chat template in the folder's files; empty where there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        found = read_json(folder / name).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return ""


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise BadFile(f"config.json: architectures is {names!r}, not a list of one name")
    if "quantization_config" in config:
        raise BadFile("its weights are quantized, which is not supported for safetensors; use a GGUF file of it")
    return names[0]


def _tasks(folder: Path, config: dict[str, Any], architecture: str) -> tuple[Task, ...]:
    if architecture.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        if count != 1:
            raise BadFile(f"{architecture} with {count} labels is a classifier; only rerankers, with one, are served")
        return ("rerank",)
    if (folder / "1_Pooling" / "config.json").is_file():
        return ("embed",)
    if architecture.endswith(("ForCausalLM", "LMHeadModel")) or architecture in VISION:
        return ("chat", "embed")
    if _ENCODERS.search(architecture) and not config.get("is_encoder_decoder") and "vision_config" not in config \
            and "image_size" not in config and (folder / "tokenizer.json").is_file():
        return ("embed",)
    raise BadFile(f"its architecture is {architecture!r}; supported: …ForCausalLM, {', '.join(VISION)}, encoders of "
                  "texts and …ForSequenceClassification with one label")


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads. Raises BadFile where one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise BadFile(f"{index.name} has no weight_map")
        names = sorted({Path(str(name)).name for name in places.values()})
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise BadFile(f"{len(missing)} of its {len(names)} files are missing, e.g. {missing[0]}")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if not single.is_file():
        raise BadFile("it has no model.safetensors and no model.safetensors.index.json")
    return [single]


def _tekken_version(folder: Path) -> str | None:
    """"mistral-v7" … where prompts are mistral-common's."""
    path = folder / "tekken.json"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_HEAD_BYTES)
    found = re.search(r'"version"\s*:\s*"(v\d+)(?:m\d+)?"', head)
    if found is None:  # the vocabulary comes before it
        config = read_json(path, most=256 * 1024 * 1024).get("config")
        found = re.match(r"(v\d+)", str(config.get("version"))) if isinstance(config, dict) else None
    if found is None:
        raise BadFile("tekken.json does not say its version (config.version)")
    return f"mistral-{found[1]}"


def _adapters(folder: Path) -> tuple[AdapterFile, ...]:
    """LoRA folders inside the model's folder, and those beside it that name it as their base, by name."""
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{ADAPTER}"))}
    for path in sorted(folder.parent.glob(f"*/{ADAPTER}")):
        try:
            base = json.loads(path.read_text("utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(base, str) and base.rstrip("/").rpartition("/")[2] == folder.name:
            found.setdefault(path.parent.name, path.parent)
    return tuple(AdapterFile(id=name, path=str(path)) for name, path in sorted(found.items()))


def _number(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
