"""Files beside the models: adapters, embeddings, VAEs, ControlNets, upscalers. Identified by headers alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.core.cards import PartCard, PartKind
from diptych.core.errors import NotFound
from diptych.library.files import fingerprint, front_matter, read_json
from diptych.library.gguf import BadFile
from diptych.library.parts_keys import Found, family_of, recognized
from diptych.library.safetensors_header import SafetensorsHeader, read_safetensors

CLASSES: dict[str, PartKind] = {
    "ControlNetModel": "controlnet", "T2IAdapter": "t2i_adapter", "AutoencoderKL": "vae", "AutoencoderTiny": "vae",
    "CLIPVisionModelWithProjection": "image_encoder", "CLIPVisionModel": "image_encoder"}
"""Of config.json of a folder in the layout of diffusers or transformers: the kind of part."""
NAMELESS = {"adapter_model", "pytorch_lora_weights", "diffusion_pytorch_model", "learned_embeds", "model", "lora",
            "diffusion_pytorch_model.fp16"}
"""Names that libraries give every file: the folder has the name that tells."""
MAX_TRIGGERS = 12
MAX_TAGS = 2_000_000
"""Characters of a list of tags that is read."""
WHOLE = "model.diffusion_model."
XL_SCALE = 0.13025
"""Scaling factor of the VAE of Stable Diffusion XL; all shapes are those of Stable Diffusion 1."""
TOLD = (("stable-diffusion-xl", "sdxl"), ("sdxl", "sdxl"), ("stable-diffusion-v1", "sd1"), ("sd_v1", "sd1"),
        ("stable-diffusion-v2", "sd2"), ("sd_v2", "sd2"), ("flux", "flux"), ("stable-diffusion-3", "sd3"))
"""What files say of themselves (modelspec.architecture, ss_base_model_version), and the family."""
KINDS: dict[PartKind, str] = {
    "lora": "LoRA", "embedding": "embedding", "vae": "VAE", "controlnet": "ControlNet", "t2i_adapter": "T2I-Adapter",
    "ip_adapter": "IP-Adapter", "image_encoder": "image encoder", "upscaler": "upscaler", "detector": "detector",
    "network": "ONNX file"}
"""In words."""


def identify_part(path: Path) -> PartCard | None:
    """Card of a safetensors file that is used together with a model; None for a model, and for what is unknown.

    Raises:
        BadFile: damaged.
        OSError: it cannot be read.
    """
    header = read_safetensors(path)
    whole = any(key.startswith(WHOLE) for key in header.shapes)
    found = recognized(header.shapes)
    if found is None or (whole and found.kind != "controlnet"):
        return None
    id = path.parent.name if path.stem in NAMELESS else path.stem
    return _card(id, path, found, header, front_matter(path.with_name("README.md")) if id != path.stem else {})


def identify_part_folder(folder: Path) -> PartCard | None:
    """Card of a ControlNet, a T2I-Adapter or a VAE in the layout of diffusers; None for another folder.

    Raises:
        BadFile: its weights are missing or damaged.
        OSError: a file cannot be read.
    """
    config = read_json(folder / "config.json")
    name = class_of(config)
    kind = CLASSES.get(name)
    if kind is None:
        return None
    stem = "model" if kind == "image_encoder" else "diffusion_pytorch_model"
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    if not files:
        raise BadFile(f"it has no {stem}.safetensors")
    file = next((file for file in files if ".fp16" not in file.name), files[0])
    header = read_safetensors(file)
    found = recognized(header.shapes)
    if found is None or found.kind != kind:
        raise BadFile(f"its config.json says {name}, its weights are something else")
    width = config.get("cross_attention_dim")
    if isinstance(width, int):
        found = Found(kind, family_of(width), width)
    elif kind == "vae" and isinstance(config.get("scaling_factor"), float):
        family = "sdxl" if abs(config["scaling_factor"] - XL_SCALE) < 1e-6 else None
        found = Found(kind, family, channels=found.channels)
    card = _card(folder.name, file, found, header, front_matter(folder / "README.md"))
    return card.model_copy(update={"path": str(folder)})


def class_of(config: Mapping[str, Any]) -> str:
    """The class that a config.json of diffusers or transformers names; empty where it names none."""
    names = config.get("architectures")
    told = config.get("_class_name") or (names[0] if isinstance(names, list) and names else "")
    return str(told)


def part_of(parts: Iterable[PartCard], kind: str, id: str) -> PartCard:
    """The part that is meant: by its id, in small letters too, or by the name it has in its header.

    Raises:
        NotFound: there is none; names what is there.
    """
    those = [part for part in parts if part.kind == kind]
    folded = id.casefold()
    for fits in ([part for part in those if part.id == id], [part for part in those if part.id.casefold() == folded],
                 [part for part in those if part.name.casefold() == folded]):
        if len(fits) == 1:
            return fits[0]
    words = KINDS.get(kind, kind)  # type: ignore[call-overload]
    known = ", ".join(part.id for part in those[:50]) or "none"
    hint = f": put {id[:200]}.onnx into the models folder" if kind == "network" else ""
    raise NotFound(f"no {words} {id[:200]!r}{hint}; there are: {known}", param=kind, code=f"{kind}_not_found")


def names_of(parts: Iterable[PartCard]) -> dict[str, str]:
    """Ids by what a prompt may call each part, in small letters: its id, and where that is no other's id, its name, or
    the word of an embedding."""
    found: dict[str, str] = {}
    others: dict[str, str] = {}
    for part in parts:
        found[part.id.casefold()] = part.id
        for name in (part.name, *(part.triggers if part.kind == "embedding" else ())):
            others.setdefault(name.casefold(), part.id)
    return {**others, **found}


def add_part(parts: dict[tuple[str, str], PartCard], card: PartCard) -> None:
    """Add under its kind and id; a different file of the same name gets a piece of its fingerprint behind it, a copy of
    one that is there is left out."""
    first = parts.get((card.kind, card.id))
    if first is not None and first.fingerprint != card.fingerprint:
        card = card.model_copy(update={"id": f"{card.id}-{card.fingerprint[:6]}"})
    parts.setdefault((card.kind, card.id), card)


def _card(id: str, path: Path, found: Found, header: SafetensorsHeader, front: Mapping[str, str]) -> PartCard:
    told = header.metadata
    triggers = found.triggers or (_triggers(told) if found.kind == "lora" else ())
    title = told.get("modelspec.title") or told.get("ss_output_name") or told.get("name") or front.get("name") or id
    return PartCard(
        id=id, kind=found.kind, family=found.family or _told_family(told), path=str(path), bytes=path.stat().st_size,
        name=title[:300], license=told.get("modelspec.license") or front.get("license"), rank=found.rank,
        text_width=found.text_width, channels=found.channels, triggers=triggers,
        fingerprint=fingerprint([header.header_sha256], [path]))


def _told_family(metadata: Mapping[str, str]) -> str | None:
    text = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    return next((family for words, family in TOLD if words in text), None)


def _triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The trigger phrase, then the words of the training's folders ("10_sks dog"), then the most frequent tags."""
    words = [metadata.get("modelspec.trigger_phrase", "").strip()]
    folders = _tags(metadata.get("ss_tag_frequency", ""))
    words += [name.partition("_")[2].strip() for name in folders if name.partition("_")[0].isdigit()]
    counts: Counter[str] = Counter()
    for tags in folders.values():
        counts.update({str(tag).strip(): count for tag, count in tags.items() if isinstance(count, int)})
    words += [tag for tag, _ in counts.most_common(MAX_TRIGGERS)]
    return tuple(dict.fromkeys(word[:200] for word in words if word))[:MAX_TRIGGERS]


def _tags(text: str) -> dict[str, dict[str, Any]]:
    """kohya's `ss_tag_frequency`: of each folder, tags and how often they stand there. Empty where it is damaged."""
    try:
        found = json.loads(text) if text and len(text) <= MAX_TAGS else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(folder): tags for folder, tags in found.items() if isinstance(tags, dict)}
